"""The installed miniature as plain torch, for evaluation: load the files, sample with CFG, weigh references.

Attention here is dense with a bias; the pack does the same by merging groups of keys.

Shapes: B pictures, T words, W context width, L all tokens, G image tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from redux import ReduxModel
from redux.words import WordTable

from .autoencoder import FLUX_SCALE, FLUX_SHIFT, build_decoder, build_encoder
from .batches import bicubic_matrix, pixel_values
from .models import Bias, Flux, FluxConfig

SIDE = 16  # of the latents of a 128 x 128 picture


@dataclass(frozen=True)
class Reference:
    """Tokens [B, N, W], a log weight for each, and where it is read: weights [8, 8] over the picture, or None."""

    tokens: Tensor
    log_weight: float = 0.0
    region: Tensor | None = None


class Miniature:
    """The five files below a ComfyUI models folder.

    Args:
        models: folder with diffusion_models, vae, clip_vision, style_models and text_encoders.
    """

    def __init__(self, models: Path, device: str = "cpu") -> None:
        self.device = device
        weights = load_file(models / "diffusion_models" / "redux-mini-flux.safetensors")
        self.flux = Flux(_flux_config(weights)).eval().requires_grad_(False)
        self.flux.load_state_dict(weights)
        self.flux.float().to(device)
        vae = {key: value.float() for key, value in load_file(models / "vae" / "redux-mini-vae.safetensors").items()}
        self.scale, self.shift = float(vae["vae_scale"]), float(vae["vae_shift"])
        self.encoder = _part(vae, "taesd_encoder.", build_encoder()).to(device)
        self.decoder = _part(vae, "taesd_decoder.", build_decoder()).to(device)
        paths = models / "clip_vision" / "redux-mini-siglip.safetensors", models / "style_models"
        self.redux = ReduxModel.load(paths[0], paths[1] / "redux-mini-projector.safetensors", dtype=torch.float32)
        self.redux.to(device)
        self.words = WordTable.load(models / "text_encoders" / "redux-mini-words.safetensors")
        self.matrix = bicubic_matrix(128, 112, device)

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, 128, 128] in 0..1 to latents as FLUX sees them."""
        return (self.encoder(pictures) / self.scale + self.shift - FLUX_SHIFT) * FLUX_SCALE

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder((latents / FLUX_SCALE + FLUX_SHIFT - self.shift) * self.scale).clamp(0, 1)

    def refer(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, 128, 128] in 0..1 to reference tokens [B, 64, W]."""
        return self.redux(pixel_values(pictures, self.matrix))

    def prompt(self, text: str) -> Tensor:
        return self.words.weight_VD[self.words.ids(text)].float().to(self.device)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        references: Sequence[Reference] = (),
        *,
        steps: int = 10,
        cfg: float = 2.0,
        seed: int = 0,
        referred: bool = False,
    ) -> Tensor:
        """One picture for each prompt, [B, 3, 128, 128] in 0..1, by Euler steps and real CFG against the empty prompt.

        The prompts are run together when they have equally many words. `referred`: the negative has the references too,
        so that CFG strengthens the words alone.
        """
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(prompts), 16, SIDE, SIDE, generator=generator).to(self.device)
        words = [self.prompt(text) for text in prompts]
        out = torch.empty(len(prompts), 3, 8 * SIDE, 8 * SIDE)
        for length in {len(item) for item in words}:
            rows = [row for row, item in enumerate(words) if len(item) == length]
            chosen = torch.stack([words[row] for row in rows])
            picked = [Reference(r.tokens[rows], r.log_weight, r.region) for r in references]
            empty = self.prompt("").expand(len(rows), -1, -1)
            positive = _conditioning(chosen, picked)
            negative = _conditioning(empty, picked if referred else ())
            out[rows] = self.decode(self.integrate(noise[rows], positive, negative, steps, cfg)).cpu()
        return out

    def integrate(
        self, x: Tensor, positive: tuple[Tensor, Bias], negative: tuple[Tensor, Bias], steps: int, cfg: float
    ) -> Tensor:
        """Latents from noise; positive and negative are contexts with their biases, as FLUX takes them."""
        times = torch.linspace(1, 0, steps + 1).tolist()
        for now, then in zip(times[:-1], times[1:], strict=True):
            time = torch.full((len(x),), now, device=x.device)
            velocity = self.flux(x, time, *positive)
            if cfg != 1:
                without = self.flux(x, time, *negative)
                velocity = without + cfg * (velocity - without)
            x = x + (then - now) * velocity
        return x


def _conditioning(words_BTW: Tensor, references: Sequence[Reference]) -> tuple[Tensor, Tensor | None]:
    """Context and bias for one call of FLUX on 128 x 128 pixels."""
    context = torch.cat([*(reference.tokens for reference in references), words_BTW], 1)
    return context, attention_bias(references, words_BTW.shape[1], (SIDE // 2) ** 2, context.device)


def attention_bias(references: Sequence[Reference], words: int, image: int, device: torch.device) -> Tensor | None:
    """Logits to add, [1, 1, L, L]; queries of the references are left alone; text reads with a region's mean."""
    if all(reference.region is None and reference.log_weight == 0 for reference in references):
        return None
    counts = [reference.tokens.shape[1] for reference in references]
    total = sum(counts) + words + image
    bias = torch.zeros(1, 1, total, total)
    start = 0
    for reference, count in zip(references, counts, strict=True):
        weight = torch.ones(words + image)
        if reference.region is not None:
            weight[words:] = reference.region.flatten()
            weight[:words] = reference.region.mean()
        logits = (weight.log() + reference.log_weight).clamp(min=-1e4)
        bias[..., sum(counts) :, start : start + count] = logits[:, None]
        start += count
    return bias.to(device)


def log_strength(strength: float) -> float:
    return math.log(strength) if strength > 0 else -1e4


def pool_tokens(tokens_BNW: Tensor, side: int) -> Tensor:
    """Means over a side x side grid of the 8 x 8 tokens."""
    grid = tokens_BNW.unflatten(1, (8, 8)).permute(0, 3, 1, 2)
    return nn.functional.adaptive_avg_pool2d(grid, side).flatten(2).transpose(1, 2)


def _flux_config(weights: dict[str, Tensor]) -> FluxConfig:
    hidden, context = weights["txt_in.weight"].shape
    kinds = ("double_blocks.", "single_blocks.")
    double, single = (len({key.split(".")[1] for key in weights if key.startswith(kind)}) for kind in kinds)
    return FluxConfig(hidden, double, single, context)


def _part(weights: dict[str, Tensor], prefix: str, module: nn.Module) -> nn.Module:
    module.load_state_dict(
        {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    )
    return module.eval().requires_grad_(False)
