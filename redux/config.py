"""What a vision tower and a projector look like, and the table of checkpoints that Redux was trained for.

Head counts cannot be read from tensor shapes, so a tower is recognised by its shapes in `KNOWN_TOWERS`, or by the
JSON object that files of this project carry in the safetensors metadata under `METADATA_KEY`:

    {"vision": {...fields of SiglipConfig...}, "projector": {...fields of ReduxConfig...}}

Either part may be absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

METADATA_KEY = "redux.config"


def _check_positive(config: Any) -> None:
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise ValueError(f"{type(config).__name__}.{field.name} is {value!r}; a positive number is needed.")
        if field.type == "int" and not isinstance(value, int):
            raise ValueError(f"{type(config).__name__}.{field.name} is {value!r}; a whole number is needed.")


@dataclass(frozen=True, kw_only=True)
class SiglipConfig:
    """Vision tower. The defaults are SigLIP so400m patch14-384 (Zhai et al. 2023, Alabdulmohsin et al. 2023)."""

    image_size: int = 384
    patch_size: int = 14
    hidden_size: int = 1152
    num_layers: int = 27
    num_heads: int = 16
    mlp_size: int = 4304
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        _check_positive(self)
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"The vision tower's hidden size {self.hidden_size} is not a multiple of its {self.num_heads} heads."
            )
        if self.patch_size > self.image_size:
            raise ValueError(f"The vision tower's patch of {self.patch_size} exceeds its image of {self.image_size}.")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens. 384 / 14 leaves 6 pixels over that no patch reads, hence 27, not 28."""
        side = self.image_size // self.patch_size
        return side, side

    @property
    def num_tokens(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True, kw_only=True)
class ReduxConfig:
    """Projector. The defaults are FLUX.1 Redux [dev]: from SigLIP's width to T5's, through three times T5's."""

    in_features: int = 1152
    hidden_features: int = 12288
    out_features: int = 4096

    def __post_init__(self) -> None:
        _check_positive(self)


KNOWN_TOWERS: dict[str, SiglipConfig] = {
    "SigLIP so400m patch14-384": SiglipConfig(),
    "SigLIP 2 so400m patch16-512": SiglipConfig(image_size=512, patch_size=16),
}

KNOWN_PROJECTORS: dict[str, ReduxConfig] = {"FLUX.1 Redux [dev] or Flex.1 Redux": ReduxConfig()}

Config = TypeVar("Config", SiglipConfig, ReduxConfig)


def write_metadata(
    vision: SiglipConfig | None = None, projector: ReduxConfig | None = None, **more: str
) -> dict[str, str]:
    """Safetensors metadata that makes a file of unusual size loadable; `more` is added as it is."""
    parts = {"vision": vision, "projector": projector}
    return {METADATA_KEY: json.dumps({key: asdict(part) for key, part in parts.items() if part}), **more}


def read_metadata(metadata: Mapping[str, str], part: str, kind: type[Config], where: str) -> Config | None:
    """The `part` ("vision" or "projector") of a file's metadata, or None when the file carries none.

    Raises:
        ValueError: the metadata is there and is not what `write_metadata` writes.
    """
    text = metadata.get(METADATA_KEY)
    if text is None:
        return None
    try:
        values = json.loads(text).get(part)
        return None if values is None else kind(**values)
    except (AttributeError, TypeError, ValueError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"The metadata '{METADATA_KEY}' of {where} cannot be read: {reason}.") from error
