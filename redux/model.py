"""Load and encode in one place, for Python users and for the nodes.

Shapes: B pictures, Y x X pixels, C channels, N tokens, V vision width, D text width.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .checkpoint import check_pair, load_projector, load_tower
from .config import ReduxConfig, SiglipConfig
from .cuda_graph import GraphedForward
from .image import FITS, View, crop_to_cover
from .mix import cat_tokens
from .pictures import Pictures, cat_pictures, read_pictures
from .projector import ReduxProjector
from .siglip import SiglipVisionTower
from .tokens import Part, ReduxTokens

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
CHUNK = 16  # pictures in one pass of the tower: large enough to fill a GPU, small enough for 8 GB cards

Progress = Callable[[int, int], None]


class ReduxModel(nn.Module):
    """Vision tower and projector as one module.

    Attributes:
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
        self._dtype: torch.dtype | None = None
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

        Raises:
            FileNotFoundError, ValueError: one sentence that says what a file is and what is needed.
        """
        if dtype not in DTYPES:
            raise ValueError(f"Redux cannot compute in {dtype}; choose one of {', '.join(map(str, DTYPES))}.")
        configs, state_dict, encoder = load_state_dict(vision_path, redux_path, dtype=dtype, device=device)
        model = cls(*configs, device="meta", dtype=dtype)
        model.encoder = encoder
        model.load_state_dict(state_dict, assign=True)
        model.eval().requires_grad_(False)
        model.use_graph()
        return model

    def use_graph(self) -> None:
        """Capture the pass for one picture as a CUDA graph at its second use; it is made anew when a weight moves."""
        if torch.version.hip is None:
            weak = weakref.proxy(self)  # or `del model` would free nothing, as it holds the graph
            self._graph = GraphedForward(lambda pixels_BCYX: weak.forward(pixels_BCYX), lambda: weak._addresses())

    def __getstate__(self) -> dict[str, Any]:  # a copy captures a graph of its own
        return {**self.__dict__, "_graph": self._graph is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_graph": None})
        if state["_graph"]:
            self.use_graph()

    def _addresses(self) -> tuple[int, ...] | None:
        """Where the weights are; None when some are not on a GPU."""
        weights = tuple(self.parameters())
        return tuple(weight.data_ptr() for weight in weights) if all(weight.is_cuda for weight in weights) else None

    @property
    def dtype(self) -> torch.dtype:
        """In which encoding computes: the weights' own, unless a host whose layers cast them sets another."""
        return self._dtype or self.projector.redux_down.weight.dtype

    @dtype.setter
    def dtype(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def _apply(self, *args: Any, **kwargs: Any) -> ReduxModel:
        if self._graph:
            self._graph.reset()  # the weights are about to move
        return super()._apply(*args, **kwargs)

    @property
    def config(self) -> SiglipConfig:
        return self.tower.config

    def forward(self, pixels_BCYX: Tensor) -> Tensor:
        """Pixel values [B, 3, Y, X] in -1..1 -> tokens [B, N, D], in the dtype of the pixel values."""
        return self.projector(self.tower(pixels_BCYX))

    def encode(
        self,
        images: Pictures,
        *,
        fit: str = "stretch",
        mask: Pictures | None = None,
        margin: float | None = None,
        token_budget: int | None = None,
        **options: Any,
    ) -> ReduxTokens:
        """Read reference pictures.

        Args:
            images: [B, Y, X, C], floats in 0..1 or uint8 or uint16, with 1, 3 or 4 channels (`pictures.read_picture`);
                also numpy arrays, Pillow pictures, and lists of such of different sizes (`pictures.read_pictures`).
            fit: how a picture meets the tower's square: "stretch", "crop", "pad", "native" or "tiles" (`image.FITS`).
            mask: [B or 1, Y, X], 1 where the reference is read.
            margin: crop each picture to what its mask or alpha covers, with this share of the longer side around it;
                None = do not.
            token_budget: pool until a picture has at most so many tokens; None = keep all.
            options: of the fit: `position` for "crop", `tiles` for "tiles".

        Raises:
            TypeError, ValueError: one sentence that says what was found and what is needed.
        """
        tokens = self.encode_views(self.views(images, fit=fit, mask=mask, margin=margin, **options))
        tokens = replace(tokens, about={"fit": fit, **options})
        return tokens if token_budget is None else tokens.pool_to(token_budget)

    @torch.no_grad()
    def views(
        self,
        images: Pictures,
        *,
        fit: str = "stretch",
        mask: Pictures | None = None,
        margin: float | None = None,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> list[View]:
        """What the tower will see of the pictures; arguments and errors are those of `encode`.

        A CUDA `device` (None = where the first weight is) does the work.
        """
        if fit not in FITS:
            raise ValueError(f"There is no fit '{fit}'; choose one of {', '.join(FITS)}.")
        device = torch.device(device or next(self.parameters()).device)
        fitted = []
        for picture in read_pictures(images, mask, device):
            cuts = [picture] if margin is None else crop_to_cover(picture, margin)
            fitted += [FITS[fit](cut, self.config, **options) for cut in cuts]
        views = [cat_pictures(same) for same in zip(*fitted, strict=True)]
        _refuse_empty(views)
        return views

    @torch.no_grad()  # not inference_mode, whose tensors could not take part in a training
    def encode_views(
        self, views: list[View], *, device: torch.device | str | None = None, progress: Progress | None = None
    ) -> ReduxTokens:
        """Run the tower and the projector on views.

        Args:
            device: where to compute; None = where the first weight is.
            progress: called with (passes done, passes in all) after each pass of the tower.
        """
        device = device or next(self.parameters()).device
        chunks = [part for view in views for part in view.pixels_BCST.split(CHUNK)]
        outputs = []
        for done, pixels_BCST in enumerate(chunks, start=1):
            outputs.append(self._run(pixels_BCST.to(device, self.dtype)))
            if progress:
                progress(done, len(chunks))
        return self._collect(views, outputs)

    def _run(self, pixels_BCST: Tensor) -> Tensor:
        if self._graph and pixels_BCST.is_cuda and len(pixels_BCST) == 1:
            return self._graph(pixels_BCST)
        return self(pixels_BCST)

    def _collect(self, views: list[View], outputs: Iterable[Tensor]) -> ReduxTokens:
        rest, parts, count = iter(outputs), [], self.config.num_tokens
        for view in views:
            pieces = len(view.pixels_BCST.split(CHUNK))
            tokens_BND = torch.cat([next(rest) for _ in range(pieces)])
            coverage = None if view.coverage_BN is None else view.coverage_BN.to(tokens_BND.device)
            parts.append(ReduxTokens(tokens_BND, (Part((view.grid,), count),), coverage, self.encoder))
        return cat_tokens(parts, lambda views: (Part(tuple(view.grid for view in views), count),))


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

    Made from the signs of all biases and norms and of one row of each matrix: rounding to another dtype never changes
    a sign, and a fine-tune that leaves all of some 400,000 alone is hardly another model.
    """
    digest = hashlib.sha256()
    for key in sorted(state_dict):
        weight = state_dict[key]
        signs = (weight if weight.ndim == 1 else weight[0].flatten()).float().signbit().cpu().numpy()
        digest.update(np.packbits(signs).tobytes())
    return digest.hexdigest()[:12]


def _refuse_empty(views: list[View]) -> None:
    """A picture of which nothing is read in any view has no tokens to give."""
    covers = [view.coverage_BN for view in views]
    if all(cover is not None for cover in covers):
        covered_B = torch.stack([(cover > 0).any(dim=1) for cover in covers if cover is not None]).any(dim=0)
        if not bool(covered_B.all()):
            raise ValueError(
                "The mask or alpha leaves nothing of the reference; paint white where it is to be read, or invert it."
            )
