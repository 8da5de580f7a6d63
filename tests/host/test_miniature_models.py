"""The miniature's own FLUX and autoencoder compute what ComfyUI's classes compute from the same file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # at the end, behind ComfyUI, whose `nodes` must be found first

from miniature import install  # noqa: E402
from miniature.recipe import models, sampling  # noqa: E402


@pytest.fixture(scope="module")
def folder(comfy: Any) -> Path:
    install.install(comfy.models)
    return Path(comfy.models)


@pytest.fixture(scope="module")
def mini(folder: Path) -> sampling.Miniature:
    return sampling.Miniature(folder)


def test_flux_forward(comfy: Any, folder: Path, mini: sampling.Miniature) -> None:
    flux = comfy.load_flux("redux-mini-flux.safetensors").model.diffusion_model.float().cpu()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 16, 16, 20, generator=generator)
    context = torch.randn(2, 70, mini.flux.config.context, generator=generator)
    time = torch.tensor([0.9, 0.2])
    theirs, ours = flux(x, time, context), mini.flux(x, time, context)
    assert float(ours.std()) > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_flux_keys_are_those_of_the_published_layout(folder: Path) -> None:
    weights = load_file(folder / "diffusion_models" / "redux-mini-flux.safetensors")
    with torch.device("meta"):
        model = models.Flux(models.FluxConfig())
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in weights.items()
    }
    assert "double_blocks.0.img_attn.norm.query_norm.scale" in weights


def test_autoencoder(comfy: Any, mini: sampling.Miniature) -> None:
    vae = comfy.load_vae("redux-mini-vae.safetensors")
    pictures = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    latents = vae.encode(pictures.movedim(1, -1))
    latent_format = comfy.load_flux("redux-mini-flux.safetensors").model.latent_format
    seen = latent_format.process_in(latents).float()
    torch.testing.assert_close(mini.encode(pictures), seen, rtol=1e-3, atol=1e-3)
    decoded = vae.decode(latent_format.process_out(seen)).movedim(-1, 1).float()
    torch.testing.assert_close(mini.decode(seen), decoded, rtol=1e-2, atol=2e-3)


def test_prompts_through_the_text_node(comfy: Any, redux_nodes: dict[str, Any], mini: sampling.Miniature) -> None:
    clip = redux_nodes["ReduxMiniatureText"].execute("redux-mini-words.safetensors")[0]
    text = "a red apple in flat style, pink background"
    context = comfy.nodes.CLIPTextEncode().encode(clip, text)[0][0][0]
    torch.testing.assert_close(context[0], mini.prompt(text))


def test_whole_sampler(comfy: Any, redux_nodes: dict[str, Any], mini: sampling.Miniature) -> None:
    """ComfyUI's KSampler with real CFG from the same noise as ours."""
    clip = redux_nodes["ReduxMiniatureText"].execute("redux-mini-words.safetensors")[0]
    encode = comfy.nodes.CLIPTextEncode().encode
    text = "a pizza, blue background"
    flux = comfy.load_flux("redux-mini-flux.safetensors")
    samples = comfy.sample(flux, encode(clip, text)[0], encode(clip, "")[0], steps=4, cfg=2.0, seed=5)
    theirs = comfy.load_vae("redux-mini-vae.safetensors").decode(samples).movedim(-1, 1).float()
    ours = mini.sample([text], steps=4, cfg=2.0, seed=5)
    assert float((ours - theirs).abs().mean()) < 5e-3
