"""Save and load references and whole conditionings, so that the encoders need not be in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..redux.tokens import ReduxTokens
from ..redux.typed import short
from .host.conditioning_store import load_conditioning, save_conditioning
from .host.model import HostedModel
from .host.outputs import say_prefix, write_numbered
from .types import CATEGORY, ReduxModelType, ReduxTokensType

FOLDER = "redux"  # below ComfyUI's output folder; its input folder is offered as well
SUFFIX = ".safetensors"


class ReduxSaveTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxSaveTokens",
            display_name="Save Reference",
            category=CATEGORY,
            description="Saves the tokens of a reference in ComfyUI's output folder. To use them again, neither the "
            "picture nor the vision tower is needed.",
            search_aliases=["save embeds", "save redux", "save tokens"],
            is_output_node=True,
            inputs=[
                ReduxTokensType.Input("tokens", tooltip="From Encode Reference, Pool or Mix."),
                _prefix_input("reference"),
            ],
            outputs=[],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return say_prefix(filename_prefix)

    @classmethod
    def execute(cls, tokens: ReduxTokens, filename_prefix: str) -> io.NodeOutput:
        return _saved(filename_prefix, tokens.save)


class ReduxLoadTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxLoadTokens",
            display_name="Load Reference",
            category=CATEGORY,
            description="Loads a reference that Save Reference wrote, from output/redux or from the input folder.",
            search_aliases=["load embeds", "load redux", "load tokens"],
            inputs=[
                _file_input("The saved reference."),
                ReduxModelType.Input(
                    "redux",
                    optional=True,
                    tooltip="Connect Load Redux to refuse a file of another encoder; without it, no model is needed.",
                ),
            ],
            outputs=[ReduxTokensType.Output(display_name="tokens", tooltip="The reference, for Apply Redux.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: Any) -> str:
        return _fingerprint(file)

    @classmethod
    def execute(cls, file: str, redux: HostedModel | None = None) -> io.NodeOutput:
        tokens = ReduxTokens.load(_path(file))
        if redux is not None and tokens.encoder != redux.model.encoder:
            raise ValueError(
                f"{file} was made by the encoder {tokens.encoder or '(unknown)'} and the loaded one is "
                f"{redux.model.encoder}; load the files it was made with, or encode the picture again."
            )
        return io.NodeOutput(tokens)


class ReduxSaveConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxSaveConditioning",
            display_name="Save Conditioning",
            category=CATEGORY,
            description="Saves a whole conditioning, prompt and references, so that T5 need not be loaded again.",
            search_aliases=["save prompt", "cache text encoder", "save cond"],
            is_output_node=True,
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="From a text encoder or Apply Redux."),
                _prefix_input("conditioning"),
            ],
            outputs=[],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return say_prefix(filename_prefix)

    @classmethod
    def execute(cls, conditioning: list[list[Any]], filename_prefix: str) -> io.NodeOutput:
        return _saved(filename_prefix, lambda path: save_conditioning(conditioning, path))


class ReduxLoadConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxLoadConditioning",
            display_name="Load Conditioning",
            category=CATEGORY,
            description="Loads what Save Conditioning wrote, from output/redux or from the input folder.",
            search_aliases=["load prompt", "load cond"],
            inputs=[_file_input("The saved conditioning.")],
            outputs=[io.Conditioning.Output(tooltip="For a sampler, or for another Apply Redux.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        return _fingerprint(file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(load_conditioning(_path(file)))


def _prefix_input(kind: str) -> io.Input:
    return io.String.Input(
        "filename_prefix",
        default=f"{FOLDER}/{kind}",
        tooltip="Folder and name in ComfyUI's output folder; a number is added, and nothing is overwritten. "
        f"The load node looks into {FOLDER}/.",
    )


def _file_input(tooltip: str) -> io.Input:
    return io.Combo.Input("file", options=_files(), tooltip=tooltip)


def _files() -> list[str]:
    """Names as ComfyUI annotates them, e.g. "redux/face_00001_.safetensors [output]"."""
    output, given = Path(folder_paths.get_output_directory()), Path(folder_paths.get_input_directory())
    saved = sorted((output / FOLDER).rglob(f"*{SUFFIX}"))
    names = [f"{path.relative_to(output).as_posix()} [output]" for path in saved if not path.name.startswith(".")]
    return names + [f"{path.name} [input]" for path in sorted(given.glob(f"*{SUFFIX}"))]


def _path(file: str) -> str:
    if file not in _files():
        raise ValueError(
            f"There is no saved file '{short(file)}'; choose one from output/{FOLDER} or the input folder."
        )
    return folder_paths.get_annotated_filepath(file)


def _fingerprint(file: str) -> str:
    about = Path(folder_paths.get_annotated_filepath(file)).stat()
    return f"{about.st_mtime_ns} {about.st_size}"


def _saved(prefix: str, write: Callable[[Path], None]) -> io.NodeOutput:
    return io.NodeOutput(ui={"text": [str(write_numbered(prefix, SUFFIX, write))]})
