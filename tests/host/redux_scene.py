"""What the tests of control in attention share: references, their application, and a dense model to compare with.

The dense model knows nothing of the pack: the reference's tokens are put before the text by hand, and an
`optimized_attention_override` of its own adds a bias [B or 1, H or 1, L, L] to the logits of every attention.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

Bias = Tensor | Callable[[dict[str, Any], int], Tensor]  # of the transformer options and the number of keys


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


class Scene:
    """A small FLUX, references of random tokens, and samplings with both.

    128 x 128 pixels are 8 x 8 image tokens; texts have 8 tokens.
    """

    def __init__(self, comfy: Any, pack: Any, redux_nodes: dict[str, Any]) -> None:
        self.comfy = comfy
        self.pack = pack
        self.nodes = redux_nodes
        self.flux = comfy.load_flux()
        self.text = comfy.conditioning(seed=1)

    def tokens(self, seed: int = 7, rows: int = 4, pictures: int = 1, coverage: Tensor | None = None) -> Any:
        """rows x 4 tokens a picture; one that is whole."""
        generator = torch.Generator().manual_seed(seed)
        values_BND = torch.randn(pictures, 4 * rows, self.comfy.sizes.context, generator=generator)
        part = self.pack.redux.tokens.Part(((rows, 4),), 4 * rows)
        return self.pack.redux.ReduxTokens(values_BND, (part,), coverage)

    def apply(self, conditioning: list, tokens: Any, **options: Any) -> list:
        return self.nodes["ReduxApply"].execute(conditioning, tokens, **options).args[0]

    def sample(self, conditioning: list, model: Any = None, **options: Any) -> Tensor:
        return self.comfy.sample(model or self.flux, conditioning, **options)

    def dense(self, bias: Bias, *tokens: Any, text: list | None = None, model: Any = None, **options: Any) -> Tensor:
        """A sampling of [tokens ... | text | image] with the bias in every attention."""
        return self.sample(self.plain(*tokens, text=text), self.dense_model(bias, model), **options)

    def dense_model(self, bias: Bias, model: Any = None) -> Any:
        """A clone with the bias in every attention."""
        model = (model or self.flux).clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = biased_attention(bias)
        return model

    def plain(self, *tokens: Any, text: list | None = None) -> list:
        """The tokens before the text, by hand."""
        ((text_BTD, keys),) = text or self.text
        parts = [part.tokens for part in tokens] + [text_BTD]
        batch = max(map(len, parts))
        return [[torch.cat([part.expand(batch, -1, -1) for part in parts], dim=1), dict(keys)]]


def biased_attention(bias: Bias) -> Callable[..., Tensor]:
    def attend(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, **options: Any) -> Tensor:
        assert mask is None and options["skip_reshape"]
        table = (bias if isinstance(bias, Tensor) else bias(options["transformer_options"], k.shape[2])).to(q)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=table.expand(len(q), -1, -1, -1))
        return out.transpose(1, 2).flatten(2)

    return attend


def make_bias(length: int, groups: list[tuple[int, int, float | Tensor]], first: int, batch: int = 1) -> Tensor:
    """[B, 1, L, L] with log w in the columns start..stop and the rows from `first` (behind the references) on.

    A weight is a number, or a tensor [L - first] or [B, L - first].
    """
    bias = torch.zeros(batch, 1, length, length)
    for start, stop, weight in groups:
        rows = torch.as_tensor(weight, dtype=torch.float32).log()
        rows = rows.expand(batch, length - first) if rows.ndim < 2 else rows
        bias[:, 0, first:, start:stop] = rows[:, :, None]
    return bias


def region_weights(region_YX: Tensor, text: int, latent: tuple[int, int], patch: int = 2) -> Tensor:
    """The weights [text + image] that a region gives, by counting small squares.

    Each side is cut into pixels x latents equal pieces, which neither a pixel nor a latent divides further.
    """
    sides = region_YX.shape
    fine = region_YX.repeat_interleave(latent[0], 0).repeat_interleave(latent[1], 1)
    steps = [patch * side for side in sides]
    cells = torch.tensor([[cell.mean() for cell in row.split(steps[1], 1)] for row in fine.split(steps[0], 0)])
    return torch.cat((cells.mean().expand(text), cells.flatten()))


def count_calls(model: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A clone of the model, and a list that gets an entry for each call of its network."""
    model = model.clone()
    calls: list[dict[str, Any]] = []

    def wrapper(executor: Any, x: Tensor, timestep: Tensor, context: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append({"batch": len(x), "sigma": float(timestep.flatten()[0]), "context": context.to("cpu", copy=True)})
        return executor(x, timestep, context, *args, **kwargs)

    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    model.add_wrapper_with_key(kind, "count", wrapper)
    return model, calls


def queue_with(*class_types: str) -> SimpleNamespace:
    """A stand-in for ComfyUI's server while it runs a prompt of these nodes."""
    prompt = {str(index): {"class_type": name, "inputs": {}} for index, name in enumerate(class_types)}
    queue = SimpleNamespace(currently_running={0: (0, "id", prompt, {}, [])})
    return SimpleNamespace(PromptServer=SimpleNamespace(instance=SimpleNamespace(prompt_queue=queue)))
