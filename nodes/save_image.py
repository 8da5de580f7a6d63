"""Save Image: files with the workflow in them, never over another file."""

import json
from typing import Any

import torch
from comfy_api.latest import io

from .host.outputs import metadata_wanted, output_target
from .image_file import FORMATS, encode_picture, write_new
from .types import CATEGORY


class ReduxSaveImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxSaveImage",
            display_name="Save Image (WebP, JPEG, PNG)",
            category=CATEGORY,
            description="Saves pictures in the output folder. The workflow is in each file: drop the file on the "
            "canvas and the graph is back. No file is ever overwritten.",
            search_aliases=["save webp", "save jpeg", "save jpg", "save png", "export image", "quality"],
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="One or several pictures; alpha is kept in PNG and WebP."),
                io.String.Input(
                    "filename_prefix",
                    default="redux",
                    tooltip="Name, or folder/name, in the output folder. %width%, %height%, %year%, %month%, %day%, "
                    "%hour%, %minute%, %second% and %batch_num% are filled in.",
                ),
                io.Combo.Input(
                    "format", options=list(FORMATS), default="webp", tooltip="png keeps every pixel and is the largest."
                ),
                io.Int.Input(
                    "quality",
                    default=90,
                    min=1,
                    max=100,
                    tooltip="Of jpg and webp: 100 is best and largest. png does not read it.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images: torch.Tensor, filename_prefix: str, format: str, quality: int) -> io.NodeOutput:
        texts = _texts(cls.hidden) if metadata_wanted() else {}
        target = output_target(filename_prefix, width=images.shape[2], height=images.shape[1])
        number, saved = target.number, []
        for index, pixels_HWC in enumerate(images):
            content = encode_picture(pixels_HWC.float().cpu().numpy(), format, quality, texts)
            stem = target.stem.replace("%batch_num%", str(index))
            name, used = write_new(target.folder, stem, number, format, content)
            saved.append({"filename": name, "subfolder": target.subfolder, "type": "output"})
            number = used + 1
        return io.NodeOutput(ui={"images": saved})


def _texts(hidden: Any) -> dict[str, str]:
    """Prompt and workflow as JSON in ASCII, by the keys that ComfyUI's page knows."""
    if hidden is None:
        return {}
    parts = {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    return {key: json.dumps(part, separators=(",", ":")) for key, part in parts.items() if part is not None}
