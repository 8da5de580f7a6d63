"""Which FLUX a model is, so that a preset made for another one is refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...redux.model import fingerprint
from ...redux.reference import Reference
from ...redux.schedule import HEAD_COUNT, ModelName

UNNAMED = "a FLUX model"
log = logging.getLogger(__name__)


def name_model(flux: Any, name: str = UNNAMED) -> ModelName:
    """Of a FLUX network, by the biases of its modulations, which quantised files and adapters leave alone.

    Without a digest where they cannot be read.
    """
    doubles, singles = getattr(flux, "double_blocks", ()), getattr(flux, "single_blocks", ())
    heads = getattr(flux, "num_heads", HEAD_COUNT)
    try:
        layers = [block.img_mod for block in doubles] + [block.modulation for block in singles]
        digest = fingerprint({f"{index:03}": layer.lin.bias for index, layer in enumerate(layers)})
    except (AttributeError, RuntimeError, TypeError, NotImplementedError) as error:
        log.warning("Redux: this model's weights cannot be told from another's (%s).", error)
        digest = ""
    return ModelName(name, digest, len(doubles), len(singles), heads)


def file_of(model: Any) -> str:
    """The name of the file that a MODEL came from, without its ending, where ComfyUI knows it."""
    init = getattr(model, "cached_patcher_init", None)
    path = init[1][0] if init and init[1] and isinstance(init[1][0], (str, Path)) else ""
    return Path(path).stem or UNNAMED


def check_presets(references: Sequence[Reference], flux: Any) -> None:
    """Raises ValueError: the preset of a reference was made for another model."""
    made = {reference.blocks.made_for for reference in references} - {None}
    found = name_model(flux) if made else None
    for model in made:
        assert model is not None and found is not None
        sizes = (model.double, model.single, model.heads) == (found.double, found.single, found.heads)
        if sizes and (model.digest == found.digest or not found.digest):
            continue
        raise ValueError(
            f"The preset at Apply Redux was made for {model.name} ({_describe(model)}), but this model is another "
            f"({_describe(found)}); choose one that was made for it, or run Calibrate Redux with it."
        )


def _describe(model: ModelName) -> str:
    return f"{model.double} double and {model.single} single blocks, {model.heads} heads, {model.digest or 'unknown'}"
