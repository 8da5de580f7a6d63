"""Load and encode in one place, for Python users and for the nodes.

Shapes: B pictures, Y x X pixels, C channels, N tokens, V vision width, D text width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .checkpoint import check_pair, load_projector, load_tower
from .config import ReduxConfig, SiglipConfig
from .graph import GraphedForward
from .image import FITS, View, read_picture
from .projector import ReduxProjector
from .siglip import SiglipVisionTower
from .tokens import ReduxTokens, cat_views

CHUNK = 16  # pictures in one pass of the tower: large enough to fill a GPU, small enough for 8 GB cards

Progress = Callable[[int, int], None]


class ReduxModel(nn.Module):
    """Vision tower and projector as one module.

    Attributes:
        dtype: the dtype in which encoding computes; the weights' own unless a host's layers cast them.
        encoder: names the weights, for `ReduxTokens.encoder`.
    """

    def __init__(
        self,
        vision: SiglipConfig,
        projector: ReduxConfig,
        *,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_pair(vision, projector)
        self.tower = SiglipVisionTower(vision, operations=operations, device=device, dtype=dtype)
        self.projector = ReduxProjector(projector, operations=operations, device=device, dtype=dtype)
        self.dtype = dtype or torch.get_default_dtype()
        self.encoder = ""
        self._graph: GraphedForward | None = None

    @classmethod
    def load(
        cls,
        vision_path: str | Path,
        redux_path: str | Path,
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> ReduxModel:
        """Load the two checkpoints straight to a device and a floating-point dtype that it computes in.

        On CUDA the pass for one picture is captured as a CUDA graph at its second use.

        Raises:
            FileNotFoundError, ValueError: one sentence that says what a file is and what is needed.
        """
        configs, state_dict, encoder = load_state_dict(vision_path, redux_path, dtype=dtype, device=device)
        model = cls(*configs, device="meta", dtype=dtype)
        model.load_state_dict(state_dict, assign=True)
        model.encoder = encoder
        model.eval().requires_grad_(False)
        if torch.device(device).type == "cuda":
            model._graph = GraphedForward(model.forward)
        return model

    @property
    def config(self) -> SiglipConfig:
        return self.tower.config

    def forward(self, pixels_BCYX: Tensor) -> Tensor:
        """Pixel values [B, 3, Y, X] in -1..1 -> tokens [B, N, D], in the dtype of the pixel values."""
        return self.projector(self.tower(pixels_BCYX))

    @torch.inference_mode()
    def encode(
        self,
        images: Tensor,
        *,
        fit: str = "stretch",
        mask: Tensor | None = None,
        device: torch.device | str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> ReduxTokens:
        """Read reference pictures.

        Args:
            images: [B, Y, X, C], floats in 0..1 or integers, with 1, 3 or 4 channels (`image.read_picture`).
            fit: how a picture meets the tower's square: "stretch", "crop", "pad", "native" or "tiles" (`image.FITS`).
            mask: [B or 1, Y, X], 1 where the reference is read.
            device: where to compute; None = where the first weight is.
            progress: called with (passes done, passes in all) after each pass of the tower.
            options: of the fit: `position` for "crop", `tiles` for "tiles".

        Raises:
            TypeError, ValueError: one sentence that says what was found and what is needed.
        """
        if fit not in FITS:
            raise ValueError(f"There is no fit '{fit}'; choose one of {', '.join(FITS)}.")
        picture = read_picture(images, mask)
        made = FITS[fit](picture, self.config, **options)
        views = made if isinstance(made, list) else [made]
        device = device or next(self.parameters()).device
        chunks = [(view, part) for view in views for part in view.pixels_BCST.split(CHUNK)]
        outputs = []
        for done, (_, pixels_BCST) in enumerate(chunks, start=1):
            outputs.append(self._run(pixels_BCST.to(device, self.dtype)))
            if progress:
                progress(done, len(chunks))
        return self._collect(views, outputs)

    def _run(self, pixels_BCST: Tensor) -> Tensor:
        return self._graph(pixels_BCST) if self._graph and len(pixels_BCST) == 1 else self(pixels_BCST)

    def _collect(self, views: list[View], outputs: Iterable[Tensor]) -> ReduxTokens:
        rest, parts, count = iter(outputs), [], self.config.num_tokens
        for view in views:
            pieces = len(view.pixels_BCST.split(CHUNK))
            tokens_BND = torch.cat([next(rest) for _ in range(pieces)])
            coverage = None if view.coverage_BN is None else view.coverage_BN.to(tokens_BND.device)
            _refuse_empty(coverage)
            parts.append(ReduxTokens(tokens_BND, (view.grid,), count, coverage, self.encoder))
        return parts[0] if len(parts) == 1 else cat_views(parts, count)


def load_state_dict(
    vision_path: str | Path,
    redux_path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> tuple[tuple[SiglipConfig, ReduxConfig], dict[str, Tensor], str]:
    """Both checkpoints as (configurations, state dict for `ReduxModel`, name of the weights)."""
    vision, tower = load_tower(vision_path, dtype=dtype, device=device)
    projector, down = load_projector(redux_path, dtype=dtype, device=device)
    check_pair(vision, projector)
    state_dict = {f"tower.{key}": value for key, value in tower.items()}
    state_dict.update({f"projector.{key}": value for key, value in down.items()})
    return (vision, projector), state_dict, fingerprint(state_dict)


def fingerprint(state_dict: dict[str, Tensor]) -> str:
    """Twelve hexadecimal digits that name the weights, whatever dtype they are stored or loaded in.

    Made from the signs of all biases and norms: rounding to another dtype never changes a sign.
    """
    digest = hashlib.sha256()
    for key in sorted(state_dict):
        if state_dict[key].ndim == 1:
            signs = state_dict[key].float().signbit().cpu().numpy()
            digest.update(np.packbits(signs).tobytes())
    return digest.hexdigest()[:12]


def _refuse_empty(coverage_BN: Tensor | None) -> None:
    if coverage_BN is not None and not bool((coverage_BN > 0).any(dim=1).all()):
        raise ValueError(
            "The mask or alpha leaves nothing of the reference; paint white where it is to be read, or invert it."
        )
