"""Pictures for a calibration: painted by the user's FLUX, and looked at by the vision tower."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import comfy.model_management as memory
import comfy.sample
import torch

from ...redux.calibration import Picture
from ...redux.calibration.measure import Look
from ...redux.presets import rules_of
from ...redux.reference import Reference, place_tokens
from ...redux.schedule import BlockWeights
from ...redux.tokens import ReduxTokens
from .conditioning import Conditioning, add_reference
from .model import HostedModel
from .model_name import file_of, name_model
from .outputs import empty_latent


@dataclass(frozen=True)
class Manner:
    """How pictures are painted: pixels of the square, steps, guidance, sampler and scheduler.

    Raises:
        ValueError: the guidance is no number, with which all pictures would be black.
    """

    side: int
    steps: int
    guidance: float
    sampler: str = "euler"
    scheduler: str = "simple"

    def __post_init__(self) -> None:
        if not math.isfinite(self.guidance):
            raise ValueError(f"The guidance is {self.guidance:g}; a finite number is needed.")


class FluxPainter:
    """Paints with ComfyUI's sampler; a reference is painted, decoded and encoded when it is first asked for."""

    def __init__(self, model: Any, clip: Any, vae: Any, redux: HostedModel, manner: Manner) -> None:
        self.flux, self.clip, self.vae, self.redux, self.manner = model, clip, vae, redux, manner
        self.model = name_model(model.model.diffusion_model, file_of(model))
        self.about = f"{manner} {redux.model.encoder}"
        self._texts: dict[str, Conditioning] = {}
        self._tokens: dict[Picture, ReduxTokens] = {}

    def look(self, picture: Picture) -> Look:
        images_BYX3 = self.paint(picture)
        features_BND, grid = self.redux.look(self.redux.model.views(images_BYX3))
        return Look.of(features_BND[0], grid)

    def paint(self, picture: Picture) -> torch.Tensor:
        """[1, Y, X, 3] in 0..1."""
        memory.throw_exception_if_processing_interrupted()
        positive = self._say(picture.text)
        if picture.reference is not None:
            placed_1ND, pieces = place_tokens(self._refer(picture.reference))
            blocks = BlockWeights(rules_of(picture.weights) if picture.weights else ())
            positive = add_reference(positive, placed_1ND, Reference(pieces, 1.0, blocks=blocks, response="even"))
        manner = self.manner
        latent = empty_latent(manner.side, manner.side, 1)["samples"]
        noise = comfy.sample.prepare_noise(latent, picture.seed)
        samples = comfy.sample.sample(
            self.flux,
            noise,
            manner.steps,
            1.0,
            manner.sampler,
            manner.scheduler,
            positive,
            self._say(""),
            latent,
            disable_pbar=True,
            seed=picture.seed,
        )
        return self.vae.decode(samples)[..., :3].reshape(1, manner.side, manner.side, 3).clamp(0, 1)

    def _say(self, text: str) -> Conditioning:
        if text not in self._texts:
            encoded = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))
            self._texts[text] = [[entry, {**options, "guidance": self.manner.guidance}] for entry, options in encoded]
        return self._texts[text]

    def _refer(self, picture: Picture) -> ReduxTokens:
        if picture not in self._tokens:
            self._tokens[picture] = self.redux.encode(self.redux.model.views(self.paint(picture)))
        return self._tokens[picture]
