"""Train FLUX, the vision tower, the projector and the word table together, by flow matching on latents.

    python -m miniature.recipe.train .mini/emoji.npz --autoencoder CKPT/autoencoder.pt --checkpoint CKPT/miniature.pt \
        --seconds 600 --total 1200

begins with random weights, or with `--start MODELS` with those of an installed miniature (the autoencoder is then
MODELS/vae/redux-mini-vae.safetensors). It stops after `--seconds`, and goes on from the checkpoint when called again;
the learning rate falls to its end over `--total` seconds of all runs together. Every `--save` seconds the checkpoint is
written, and beside it `*.weights.pt`, which holds the averaged weights alone.

Flow matching as FLUX does it: x_t = (1 - t) latent + t noise, the network gives noise - latent, t is logit-normal (here
with more weight on noisy times, see `TIME_MEAN`).
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from redux import ReduxConfig, ReduxModel, SiglipConfig

from . import sampling
from .autoencoder import build_encoder, load_autoencoder
from .batches import SHARES, Batch, Batches, bicubic_matrix, pixel_values
from .common import channels_last, half, save_atomically
from .models import Flux, FluxConfig
from .optimizer import Optimizer, rate_at
from .scenes import Emoji
from .vocabulary import build_vocabulary

TOWER = SiglipConfig(image_size=112, patch_size=14, hidden_size=256, num_layers=5, num_heads=4, mlp_size=1024)
# Logit of the time: mean and deviation. Words act at noisy times: after the first stage the loss with a wrong style
# word exceeded that with the right one by 0.041 at t = 0.9 and by 0.004 at t = 0.5 (`study.py`). With FLUX's 0 and 1,
# a third of the samples are above 0.6.
TIME_MEAN, TIME_DEVIATION = 0.8, 1.3


class Miniature(nn.Module):
    """Everything that is trained here; the forward pass is one call of FLUX with words and references."""

    def __init__(self, config: FluxConfig, words: int) -> None:
        super().__init__()
        self.flux = Flux(config)
        projector = ReduxConfig(in_features=TOWER.hidden_size, hidden_features=1024, out_features=config.context)
        self.redux = ReduxModel(TOWER, projector)
        self.words = nn.Embedding(words, config.context)
        self.flux.init_weights()
        nn.init.normal_(self.redux.tower.position.weight, std=0.02)
        nn.init.normal_(self.words.weight)

    def context(self, words_BT: Tensor, pixels: Tensor | None) -> Tensor:
        """[reference 1 | reference 2 | words]: [B, R * 64 + T, W]; pixels [B, R, 3, 112, 112] or None."""
        words = self.words(words_BT)
        if pixels is None:
            return words
        tokens = self.redux(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]).flatten(1, 2)
        return torch.cat((tokens, words.to(tokens.dtype)), 1)

    def forward(
        self, latents: Tensor, time_B: Tensor, words_BT: Tensor, pixels: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        return self.flux(latents, time_B, self.context(words_BT, pixels), mask)

    def compile_blocks(self) -> None:
        """Blocks are compiled one by one: all of a kind share the code, and its sequence length is dynamic."""
        torch._dynamo.config.recompile_limit = 64  # with and without a mask, one word or several, each kind of block
        for block in (*self.flux.double_blocks, *self.flux.single_blocks, *self.redux.tower.blocks):
            block.compile()


def load_encoder(path: Path, device: torch.device) -> tuple[nn.Module, float, float]:
    """The frozen encoder, with the mean and the deviation of its latents."""
    state = load_autoencoder(path, device)
    encoder = channels_last(build_encoder().to(device))
    encoder.load_state_dict(state["encoder"])
    return encoder.requires_grad_(False), state["shift"], state["scale"]


def velocity_loss(model: Miniature, batch: Batch, matrix: Tensor) -> Tensor:
    latents = batch.latents
    noise = torch.randn_like(latents)
    time_B = torch.sigmoid(TIME_MEAN + TIME_DEVIATION * torch.randn(len(latents), device=latents.device))
    blend = time_B[:, None, None, None]
    pixels = None if batch.references is None else pixel_values(batch.references, matrix)
    with half(latents.device):
        velocity = model((1 - blend) * latents + blend * noise, time_B, batch.words, pixels, batch.mask)
    return (velocity.float() - (noise - latents)).pow(2).mean()


class Trainer:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        emoji = Emoji(arguments.emoji, self.device)
        self.vocabulary = build_vocabulary(emoji.names, emoji.categories)
        self.config = FluxConfig(arguments.hidden, arguments.double, arguments.single, arguments.context)
        self.model = Miniature(self.config, len(self.vocabulary.words)).to(self.device)
        if arguments.start:
            self._start(arguments.start)
        self.optimizer = Optimizer(self.model, arguments.rate, arguments.muon)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.state: dict[str, Any] = {"seconds": 0.0, "step": 0, "samples": 0, "history": []}
        if arguments.checkpoint.exists():
            self._resume()
        if self.device.type == "cuda":
            self.model.compile_blocks()
        self.batches = Batches(emoji, self.vocabulary, self._encoder(), arguments.pool, arguments.chunk)
        self.matrix = bicubic_matrix(128, TOWER.image_size, self.device)
        self.losses: dict[str, list[Tensor]] = {kind: [] for kind in SHARES}

    def _encoder(self) -> Any:
        encoder, shift, scale = load_encoder(self.arguments.autoencoder, self.device)
        run = torch.compile(encoder) if self.device.type == "cuda" else encoder

        @torch.no_grad()
        def encode(pictures: Tensor) -> Tensor:
            with half(self.device):
                latents = run(pictures.to(memory_format=torch.channels_last))
            return (latents.float() - shift) / scale

        return encode

    def _start(self, models: Path) -> None:
        """The weights of an installed miniature; what its table of words has at the end are copies."""
        installed = sampling.Miniature(models, self.arguments.device)
        self.model.flux.load_state_dict(installed.flux.state_dict())
        self.model.redux.load_state_dict(installed.redux.state_dict())
        table = self.model.words.weight.data
        table.copy_(installed.words.weight_VD[: len(table)])

    def _resume(self) -> None:
        saved = torch.load(self.arguments.checkpoint, map_location=self.device)
        self.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        for part, state in zip(self.optimizer.parts, saved["optimizers"], strict=True):
            part.load_state_dict(state)
        self.state = {key: saved[key] for key in self.state}
        torch.manual_seed(self.arguments.seed + self.state["step"])  # not the same batches once more

    def save(self) -> None:
        weights = {"average": self.average.state_dict(), "config": asdict(self.config), **self.state}
        parts = [part.state_dict() for part in self.optimizer.parts]
        full = {"model": self.model.state_dict(), "optimizers": parts, **weights}
        save_atomically(full, self.arguments.checkpoint)
        weights["average"] = {key: value.half() for key, value in weights["average"].items()}
        save_atomically(weights, self.arguments.checkpoint.with_suffix(".weights.pt"))

    def run(self) -> None:
        before, start = self.state["seconds"], time.monotonic()
        saved = start
        kinds, shares = list(SHARES), torch.tensor(list(SHARES.values()))
        while (spent := time.monotonic() - start) < self.arguments.seconds:
            self.state["seconds"] = before + spent
            kind = kinds[int(torch.multinomial(shares, 1))]
            self._step(kind, rate_at(self.arguments.rate, (before + spent) / self.arguments.total, self.state["step"]))
            if self.state["step"] % self.arguments.report == 0:
                self._report()
            if time.monotonic() - saved > self.arguments.save:
                self.save()
                saved = time.monotonic()
        self.state["seconds"] = before + time.monotonic() - start
        self._report()
        self.save()

    def _step(self, kind: str, rate: float) -> None:
        with torch.no_grad():
            batch = self.batches.draw(kind, self.arguments.batch)
        loss = velocity_loss(self.model, batch, self.matrix)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(rate)
        step = self.state["step"]
        keep = min(self.arguments.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - keep)
        self.losses[kind].append(loss.detach())
        self.state["step"] = step + 1
        self.state["samples"] += self.arguments.batch

    def _report(self) -> None:
        means = {kind: float(torch.stack(values).mean()) for kind, values in self.losses.items() if values}
        self.losses = {kind: [] for kind in SHARES}
        seconds, samples = self.state["seconds"], self.state["samples"]
        self.state["history"].append((round(seconds, 1), samples, means))
        text = ", ".join(f"{kind} {value:.4f}" for kind, value in means.items())
        print(f"step {self.state['step']} {seconds:.0f} s {samples / 1e6:.2f} M: {text}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emoji", type=Path)
    parser.add_argument("--autoencoder", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="models folder with an installed miniature, to train it further")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--total", type=float, required=True)
    for name, value in (("hidden", 384), ("double", 2), ("single", 4), ("context", 384)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in (
        ("batch", 1024),
        ("pool", 200_000),
        ("chunk", 256),
        ("report", 100),
        ("save", 120),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--muon", action="store_true")
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    Trainer(arguments).run()


if __name__ == "__main__":
    main()
