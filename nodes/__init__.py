"""The nodes, one file per job of the user."""

from comfy_api.latest import ComfyExtension, io

from .apply import ReduxApply
from .calibrate import ReduxCalibrate
from .clip_vision import ReduxFromClipVision
from .encode import ReduxEncode
from .flux import ReduxLoadFlux
from .host.convert_route import serve_converter
from .host.examples import lay_out_examples
from .host.report import report_errors
from .influence import ReduxInfluence
from .keep import ReduxKeep
from .load import ReduxLoader
from .miniature_text import ReduxMiniatureText
from .mix import ReduxMix
from .pool import ReduxPool
from .regions import ReduxRegions
from .safety import ReduxSafetyCheck
from .save_image import ReduxSaveImage
from .save_load import ReduxLoadConditioning, ReduxLoadTokens, ReduxSaveConditioning, ReduxSaveTokens
from .size import ReduxSize
from .sweep import ReduxSweep, ReduxSweepSheet
from .weigh_latents import ReduxWeighLatents

NODES: list[type[io.ComfyNode]] = [
    ReduxLoader,
    ReduxEncode,
    ReduxApply,
    ReduxKeep,
    ReduxWeighLatents,
    ReduxInfluence,
    ReduxRegions,
    ReduxSweep,
    ReduxSweepSheet,
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
    ReduxLoadFlux,
    ReduxCalibrate,
]
for _node in NODES:
    report_errors(_node)


class ReduxExtension(ComfyExtension):
    async def on_load(self) -> None:
        lay_out_examples()
        serve_converter()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)


async def comfy_entrypoint() -> ReduxExtension:
    return ReduxExtension()
