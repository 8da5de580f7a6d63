"""Which model files are there, so that "automatic" in a loader means what this machine has.

A file is known by the names and shapes of its tensors, not by its name. Two families can be there: FLUX.1 with Redux,
and the miniature that comes with this pack. A graph of "automatic" loaders runs with FLUX.1 when all of its files are
there, and otherwise with the miniature; never with some files of each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import folder_paths

from ...redux.tensor_files import TensorFiles, open_files
from ...redux.words import METADATA_KEY

AUTOMATIC = "automatic"
FLUX, MINIATURE = "FLUX.1", "the miniature"
KINDS = ("dev", "schnell", "Krea", "Kontext", "Fill")
FLUX_WIDTH, FILL_CHANNELS = 3072, 384


@dataclass(frozen=True)
class Role:
    """A place in a family for one file: the model folder, a test of its shapes, and an example to ask for."""

    folder: str
    fits: Callable[[TensorFiles], bool]
    example: str


def _shape(files: TensorFiles, end: str) -> tuple[int, ...]:
    """The shape of the tensor whose name ends so, after the start or a dot; () when there is none."""
    pattern = re.compile(rf"(^|\.){re.escape(end)}$")
    return next((shape for name, shape in files.shapes.items() if pattern.search(name)), ())


def _flux_width(files: TensorFiles) -> int:
    """The width of a FLUX.1 model, 0 of another one. Chroma and FLUX.2 have the same blocks and other parts."""
    if any("distilled_guidance_layer" in name or "double_stream_modulation" in name for name in files.shapes):
        return 0
    norm, scale = _shape(files, "img_in.weight"), _shape(files, "double_blocks.0.img_attn.norm.query_norm.scale")
    return norm[0] if len(norm) == 2 and scale else 0


def _position_width(files: TensorFiles) -> int:
    return (*_shape(files, "embeddings.position_embedding.weight"), 0, 0)[1]


FAMILIES: dict[str, dict[str, Role]] = {
    FLUX: {
        "model": Role("diffusion_models", lambda f: _flux_width(f) == FLUX_WIDTH, "flux1-dev.safetensors"),
        "text 1": Role(
            "text_encoders",
            lambda f: _shape(f, "text_model.embeddings.token_embedding.weight")[1:] == (768,),
            "clip_l.safetensors",
        ),
        "text 2": Role(
            "text_encoders",
            lambda f: _shape(f, "encoder.block.23.layer.0.SelfAttention.q.weight")[1:] == (4096,),
            "t5xxl_fp8_e4m3fn_scaled.safetensors",
        ),
        "vae": Role("vae", lambda f: _shape(f, "decoder.conv_in.weight")[1:2] == (16,), "ae.safetensors"),
        "vision": Role("clip_vision", lambda f: _position_width(f) == 1152, "sigclip_vision_patch14_384.safetensors"),
        "projector": Role(
            "style_models", lambda f: _shape(f, "redux_up.weight")[1:] == (1152,), "flux1-redux-dev.safetensors"
        ),
    },
    MINIATURE: {
        "model": Role("diffusion_models", lambda f: 0 < _flux_width(f) < 1024, "redux-mini-flux.safetensors"),
        "text 1": Role("text_encoders", lambda f: METADATA_KEY in f.metadata, "redux-mini-words.safetensors"),
        "vae": Role("vae", lambda f: _shape(f, "taesd_decoder.1.weight")[1:2] == (16,), "redux-mini-vae.safetensors"),
        "vision": Role("clip_vision", lambda f: 0 < _position_width(f) < 768, "redux-mini-siglip.safetensors"),
        "projector": Role(
            "style_models",
            lambda f: 0 < (*_shape(f, "redux_up.weight"), 0, 0)[1] < 768,
            "redux-mini-projector.safetensors",
        ),
    },
}


def choose_file(role: str, given: dict[str, str], kind: str = KINDS[0]) -> str:
    """The file for a role of which `given` says "automatic".

    Args:
        role: a key of FAMILIES[FLUX].
        given: the choices in the same loader, by role; a file that is named decides the family.
        kind: of KINDS, for the role "model"; where that kind is not there, another one is taken.

    Raises:
        FileNotFoundError: one sentence that says which file is missing where.
    """
    family = (
        next((found for part, name in given.items() if (found := family_of(part, name))), None) or installed_family()
    )
    if role not in FAMILIES[family]:
        return ""
    names = find_files(family, role)
    if not names:
        wanted = FAMILIES[family][role]
        raise FileNotFoundError(f"{family} needs a file that is missing: {wanted.example} in models/{wanted.folder}.")
    if role == "model":
        names = sorted(names, key=lambda name: (kind_of(name) != kind, KINDS.index(kind_of(name))))
    return names[0]


def installed_family() -> str:
    """FLUX.1 when every file of it is there, else the miniature when every file of that one is.

    Raises:
        FileNotFoundError: neither is complete.
    """
    missing = {
        family: [role for part, role in roles.items() if not find_files(family, part)]
        for family, roles in FAMILIES.items()
    }
    for family, roles in missing.items():
        if not roles:
            return family
    wanted = ", ".join(f"{role.example} in models/{role.folder}" for role in missing[FLUX])
    raise FileNotFoundError(
        f"FLUX.1 with Redux is not complete; missing: {wanted}. To try the pack without it, run miniature/install.py."
    )


def family_of(role: str, name: str) -> str | None:
    """The family of a named file; None for "automatic" and for a file of neither."""
    if name.startswith(AUTOMATIC):
        return None
    return next((family for family, roles in FAMILIES.items() if role in roles and _fits(roles[role], name)), None)


def find_files(family: str, role: str) -> list[str]:
    """Names of the installed files for a role, the name nearest to the example first, then in order."""
    wanted = FAMILIES[family][role]
    start = re.split(r"[-_.]", wanted.example)[0]
    names = [name for name in folder_paths.get_filename_list(wanted.folder) if _fits(wanted, name)]
    return sorted(names, key=lambda name: (not name.startswith(wanted.example), start not in name, name))


def kind_of(name: str) -> str:
    """Which FLUX.1 a file is: Fill and schnell by their shapes, Kontext and Krea by their names, else dev."""
    files = _headers("diffusion_models", name)
    if files is None:
        return KINDS[0]
    if _shape(files, "img_in.weight")[1:] == (FILL_CHANNELS,):
        return "Fill"
    named = next((kind for kind in ("Kontext", "Krea") if kind.lower() in name.lower()), None)
    return named or ("dev" if _shape(files, "guidance_in.in_layer.weight") else "schnell")


def is_of_kind(name: str, kind: str) -> bool:
    """Whether a file is the FLUX.1 of this kind; the miniature is of none."""
    return family_of("model", name) == FLUX and kind_of(name) == kind


def _fits(role: Role, name: str) -> bool:
    files = _headers(role.folder, name)
    return files is not None and role.fits(files)


def _headers(folder: str, name: str) -> TensorFiles | None:
    path = folder_paths.get_full_path(folder, name)
    if path is None or not path.endswith((".safetensors", ".sft")):
        return None
    about = os.stat(path)
    return _read(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=512)
def _read(path: str, changed: int, size: int) -> TensorFiles | None:
    """The headers, read again only when the file has changed; None of a file that cannot be read."""
    try:
        return open_files(path)
    except (OSError, ValueError):
        return None
