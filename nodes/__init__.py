"""The nodes, one file per job of the user."""

from comfy_api.latest import ComfyExtension, io

from .apply import ReduxApply
from .clip_vision import ReduxFromClipVision
from .encode import ReduxEncode
from .files import ReduxLoadConditioning, ReduxLoadTokens, ReduxSaveConditioning, ReduxSaveTokens
from .influence import ReduxInfluence
from .load import ReduxLoader
from .miniature_text import ReduxMiniatureText
from .mix import ReduxMix
from .pool import ReduxPool
from .safety import ReduxSafetyCheck
from .save_image import ReduxSaveImage
from .size import ReduxSize

NODES: list[type[io.ComfyNode]] = [
    ReduxLoader,
    ReduxEncode,
    ReduxApply,
    ReduxInfluence,
    ReduxPool,
    ReduxMix,
    ReduxSaveTokens,
    ReduxLoadTokens,
    ReduxSaveConditioning,
    ReduxLoadConditioning,
    ReduxFromClipVision,
    ReduxMiniatureText,
    ReduxSize,
    ReduxSaveImage,
    ReduxSafetyCheck,
]


class ReduxExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)


async def comfy_entrypoint() -> ReduxExtension:
    return ReduxExtension()
