"""What docs/coming-from.md says of other systems: the real pipeline of diffusers, and InvokeAI's arithmetic."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxPriorReduxPipeline
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.siglip import SiglipImageProcessorPil

import redux
from redux.tokens import Part

TEXT, WIDTH = 512, 4096  # of the embeddings that diffusers makes up when no text encoder is loaded


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[FluxPriorReduxPipeline, redux.ReduxModel]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("prior")
    config = SiglipVisionConfig(
        hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4, image_size=112,
        patch_size=14, vision_use_head=False,
    )  # fmt: skip
    prior = FluxPriorReduxPipeline(
        image_encoder=SiglipVisionModel(config).eval(),
        feature_extractor=SiglipImageProcessorPil(size={"height": 112, "width": 112}),
        image_embedder=ReduxImageEncoder(redux_dim=64, txt_in_features=WIDTH).eval(),
    )
    prior.image_encoder.save_pretrained(folder / "image_encoder")
    prior.image_embedder.save_pretrained(folder / "image_embedder")
    model = redux.ReduxModel.load(folder / "image_encoder", folder / "image_embedder", dtype=torch.float32)
    return prior, model


def pictures(count: int) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(0)
    return [
        Image.fromarray((torch.rand(40, 60, 3, generator=generator) * 255).byte().numpy()).resize((150, 100))
        for _ in range(count)
    ]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_diffusers_prior_is_stretch_behind_empty_text(pair: tuple[FluxPriorReduxPipeline, redux.ReduxModel]) -> None:
    prior, model = pair
    (image,) = pictures(1)
    with torch.no_grad():
        output = prior(image)
    assert output.prompt_embeds.shape == (1, TEXT + 64, WIDTH) and not output.prompt_embeds[:, :TEXT].any()
    assert relative(model.encode(image, fit="stretch").tokens, output.prompt_embeds[:, TEXT:]) < 1e-3


def test_diffusers_scale_multiplies_and_several_pictures_are_added(
    pair: tuple[FluxPriorReduxPipeline, redux.ReduxModel],
) -> None:
    prior, model = pair
    images, scales = pictures(2), [0.5, 0.25]
    with torch.no_grad():
        output = prior(images, prompt_embeds_scale=scales)
    added = redux.mix([model.encode(image, fit="stretch") for image in images], "add", scales)
    assert relative(added.tokens, output.prompt_embeds[:, TEXT:]) < 1e-3


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 9])
def test_invokes_downsampling_is_pool_reference_where_27_divides(factor: int) -> None:
    """`area` in InvokeAI and AdvancedRefluxControl: torch's bins overlap where the grid does not divide."""
    values_BND = torch.randn(1, 729, 16, generator=torch.Generator().manual_seed(0))
    side = 27 // factor
    theirs = interpolate(values_BND.movedim(1, 2).unflatten(2, (27, 27)), size=(side, side), mode="area")
    ours = redux.ReduxTokens(values_BND, (Part(((27, 27),), 729),)).pool((side, side)).tokens
    found = relative(ours, theirs.flatten(2).movedim(1, 2))
    assert found < 1e-6 if 27 % side == 0 else found > 0.1
