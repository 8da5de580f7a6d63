"""The README's hand-over to diffusers, with a small random FLUX: the reference stands among the prompt's embeddings.

Shapes: B images, T text tokens, N reference tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from PIL import Image
from torch import Tensor

import redux

Photo = Callable[..., Tensor]


@pytest.fixture(scope="module")
def pipe(model: redux.ReduxModel) -> FluxPipeline:
    """Without text encoders, since embeddings are handed in; T5's width is that of the projector."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=model.projector.config.out_features,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKL(block_out_channels=(16,), norm_num_groups=4, latent_channels=4, sample_size=32)
    vae.register_to_config(shift_factor=0.0)
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer.eval(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe: FluxPipeline, prompt_embeds: Tensor) -> np.ndarray:
    images = pipe(
        prompt_embeds=prompt_embeds,
        pooled_prompt_embeds=torch.zeros(len(prompt_embeds), 32),
        num_inference_steps=2,
        height=32,
        width=32,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    assert np.isfinite(images).all()
    return images


def test_tokens_are_prompt_embeddings(pipe: FluxPipeline, model: redux.ReduxModel, photo: Photo) -> None:
    text_BTD = torch.randn(1, 12, model.projector.config.out_features)
    first, second = (Image.fromarray(photo(50, 70, seed=seed)[0].mul(255).byte().numpy()) for seed in (1, 2))
    pictures = []
    for picture in (first, second):
        tokens = model.encode(picture, fit="crop", position="top")
        prompt_embeds = torch.cat([tokens.tokens, text_BTD], dim=1)
        pictures.append(generate(pipe, prompt_embeds))
    assert pictures[0].shape == (1, 32, 32, 3)
    assert np.abs(pictures[0] - pictures[1]).max() > 1e-4


def test_the_order_of_reference_and_text_does_not_matter(
    pipe: FluxPipeline, model: redux.ReduxModel, photo: Photo
) -> None:
    """FLUX.1 gives every text token position 0: in front of the text, as this project does, or behind it."""
    text_BTD = torch.randn(1, 12, model.projector.config.out_features)
    tokens_BND = model.encode(photo(50, 70)).tokens
    before, after = torch.cat([tokens_BND, text_BTD], dim=1), torch.cat([text_BTD, tokens_BND], dim=1)
    assert np.abs(generate(pipe, before) - generate(pipe, after)).max() < 1e-4


def test_a_masked_reference(pipe: FluxPipeline, model: redux.ReduxModel, photo: Photo) -> None:
    """Only the tokens that are kept go in."""
    mask = torch.zeros(1, 50, 70)
    mask[:, 10:40, 20:50] = 1
    tokens = model.encode(photo(50, 70), mask=mask)
    (kept_ND,) = tokens.kept()
    assert 0 < len(kept_ND) < 64
    generate(pipe, torch.cat([kept_ND[None], torch.randn(1, 12, tokens.width)], dim=1))


def test_tokens_can_take_part_in_a_training(pipe: FluxPipeline, model: redux.ReduxModel, photo: Photo) -> None:
    """They are ordinary tensors: a loss behind the transformer has gradients with respect to a factor on them."""
    tokens_BND = model.encode(photo(50, 70)).tokens
    factor = torch.ones((), requires_grad=True)
    out = pipe.transformer(
        hidden_states=torch.randn(1, 16, 16),
        encoder_hidden_states=tokens_BND * factor,
        pooled_projections=torch.zeros(1, 32),
        timestep=torch.tensor([0.5]),
        img_ids=torch.zeros(16, 3),
        txt_ids=torch.zeros(64, 3),
    ).sample
    out.square().mean().backward()
    assert factor.grad is not None and bool(factor.grad.isfinite())
