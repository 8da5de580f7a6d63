"""Save Image: files with the workflow in them, never over another file."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ..redux.store import new_file
from .host.outputs import metadata_wanted, output_target, say_prefix, write_next
from .image_file import FORMATS, check_pictures, encode_picture
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
                io.Boolean.Input(
                    "embed_workflow",
                    default=True,
                    optional=True,
                    tooltip="Off, the files hold pixels alone: neither the workflow nor the prompt.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return say_prefix(filename_prefix)

    @classmethod
    def execute(
        cls, images: torch.Tensor, filename_prefix: str, format: str, quality: int, embed_workflow: bool = True
    ) -> io.NodeOutput:
        check_pictures(images.shape)
        texts = _texts(cls.hidden) if embed_workflow and metadata_wanted() else {}
        target = output_target(filename_prefix, width=images.shape[2], height=images.shape[1])
        number, saved = target.number, []
        for index, pixels_HWC in enumerate(images):
            content = encode_picture(pixels_HWC.float().cpu().numpy(), format, quality, texts)
            place = target._replace(stem=target.stem.replace("%batch_num%", str(index)), number=number)
            path, used = write_next(place, f".{format}", partial(_write, content))
            saved.append({"filename": path.name, "subfolder": target.subfolder, "type": "output"})
            number = used + 1
        return io.NodeOutput(ui={"images": saved})


def _write(content: bytes, path: Path) -> None:
    with new_file(path) as unnamed, open(unnamed, "wb") as file:
        file.write(content)


def _texts(hidden: Any) -> dict[str, str]:
    """Prompt and workflow as JSON in ASCII, by the keys that ComfyUI's page knows."""
    if hidden is None:
        return {}
    parts = {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    return {key: json.dumps(part, separators=(",", ":")) for key, part in parts.items() if part is not None}
