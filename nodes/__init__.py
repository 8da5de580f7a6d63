"""The nodes, one file per job of the user."""

from comfy_api.latest import ComfyExtension, io

from .apply import ReduxApply
from .encode import ReduxEncode
from .load import ReduxLoader
from .miniature_text import ReduxMiniatureText

NODES: list[type[io.ComfyNode]] = [ReduxLoader, ReduxEncode, ReduxApply, ReduxMiniatureText]


class ReduxExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)


async def comfy_entrypoint() -> ReduxExtension:
    return ReduxExtension()
