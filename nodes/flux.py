"""Load FLUX: model, text side and VAE in one node, by file or whatever this machine has."""

import logging
from typing import Any

import folder_paths
from comfy_api.latest import io

from .host.flux import DTYPES, load_flux
from .host.installed import AUTOMATIC, FLUX, KINDS, choose_file, family_of, is_of_kind, kind_of
from .host.report import note_on_node
from .types import CATEGORY

PREFERRED = [AUTOMATIC, *(f"{AUTOMATIC}: {kind}" for kind in KINDS[1:])]


class ReduxLoadFlux(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxLoadFlux",
            display_name="Load FLUX",
            category=CATEGORY,
            description="Loads a FLUX.1 model, its text encoders and its VAE. automatic takes what is installed: "
            "FLUX.1, or the miniature that comes with this pack. ComfyUI's own loaders do as well.",
            search_aliases=["flux loader", "load diffusion model", "dual clip loader", "load vae", "checkpoint flux"],
            inputs=[
                _file_input(
                    "model_name",
                    "model",
                    PREFERRED,
                    "diffusion_models",
                    "FLUX.1 dev, schnell, Krea, Kontext or "
                    "Fill. automatic: schnell takes another one where schnell is not there.",
                ),
                _file_input("text_name_1", "text 1", [AUTOMATIC], "text_encoders", "CLIP-L, or the miniature's words."),
                _file_input("text_name_2", "text 2", [AUTOMATIC], "text_encoders", "T5 XXL; the miniature reads none."),
                _file_input("vae_name", "vae", [AUTOMATIC], "vae", "The autoencoder, ae.safetensors."),
                io.Combo.Input(
                    "weight_dtype",
                    optional=True,
                    options=list(DTYPES),
                    default="default",
                    advanced=True,
                    tooltip="How the model's weights are kept in memory; default is as they are in the file.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="For a sampler."),
                io.Clip.Output(tooltip="For CLIP Text Encode."),
                io.Vae.Output(tooltip="For VAE Decode."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **given: Any) -> list[str]:
        """A file that is installed later is taken on the next run."""
        return resolve(**given)

    @classmethod
    def execute(
        cls, model_name: str, text_name_1: str, text_name_2: str, vae_name: str, weight_dtype: str = "default"
    ) -> io.NodeOutput:
        names = resolve(model_name, text_name_1, text_name_2, vae_name)
        logging.info("Load FLUX: %s", ", ".join(filter(None, names)))
        wanted = model_name.partition(": ")[2] if model_name.startswith(AUTOMATIC) else ""
        if wanted and not is_of_kind(names[0], wanted):
            note_on_node(say_stand_in(wanted, names[0]))
        folders = ("diffusion_models", "text_encoders", "text_encoders", "vae")
        paths = [
            folder_paths.get_full_path_or_raise(*pair) if pair[1] else "" for pair in zip(folders, names, strict=True)
        ]
        return io.NodeOutput(*load_flux(paths[0], [path for path in paths[1:3] if path], paths[3], weight_dtype))


def resolve(model_name: str, text_name_1: str, text_name_2: str, vae_name: str, **_: Any) -> list[str]:
    """The four names with "automatic" replaced by files; "" where the family has no such file.

    Raises:
        FileNotFoundError: a file is missing.
    """
    given = {"model": model_name, "text 1": text_name_1, "text 2": text_name_2, "vae": vae_name}
    kind = model_name.partition(": ")[2] or KINDS[0]
    return [choose_file(role, given, kind) if name.startswith(AUTOMATIC) else name for role, name in given.items()]


def say_stand_in(wanted: str, taken: str) -> str:
    """What Load FLUX says where a kind is missing; a graph for Fill has a guidance that suits no other FLUX.1."""
    text = f"No FLUX.1 {wanted} here: {taken} is taken."
    other = wanted == "Fill" and family_of("model", taken) == FLUX and kind_of(taken) != "schnell"
    return f"{text} Set a guidance of 3.5: 30 is Fill's." if other else text


def _file_input(name: str, label: str, choices: list[str], folder: str, tooltip: str) -> io.Input:
    options = [*choices, *folder_paths.get_filename_list(folder)]
    return io.Combo.Input(name, display_name=label, options=options, default=AUTOMATIC, tooltip=tooltip)
