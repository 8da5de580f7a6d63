"""The small models in the real ComfyUI: loaded by its own nodes, and their conditioning has an influence."""

from __future__ import annotations

from typing import Any

import torch


def test_small_models_load_and_sample(comfy: Any) -> None:
    flux = comfy.load_flux()
    latent = comfy.sample(flux, comfy.conditioning(seed=1))
    picture_BHWC = comfy.nodes.VAEDecode().decode(comfy.load_vae(), {"samples": latent})[0]

    assert flux.model.diffusion_model.params.context_in_dim == comfy.sizes.context
    assert picture_BHWC.shape == (1, 128, 128, 3)
    assert picture_BHWC.std() > 0.05
    assert latent.isfinite().all()


def test_conditioning_matters_and_a_seed_repeats(comfy: Any) -> None:
    flux = comfy.load_flux()
    first, again = (comfy.sample(flux, comfy.conditioning(seed=1)) for _ in range(2))
    other = comfy.sample(flux, comfy.conditioning(seed=2))

    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.1 * first.std()


def test_guidance_and_pooled_text_are_read(comfy: Any) -> None:
    import dataclasses

    sizes = dataclasses.replace(comfy.sizes, guidance=True, vector=768)
    flux = comfy.load_flux(comfy.write(sizes, "dev").diffusion_models)
    plain = comfy.sample(flux, comfy.conditioning(guidance=1.0))
    guided = comfy.sample(flux, comfy.conditioning(guidance=4.0))

    assert type(flux.model.model_config).__name__ == "Flux"
    assert not torch.equal(plain, guided)
