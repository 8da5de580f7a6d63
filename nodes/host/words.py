"""The miniature's word table as a CLIP, so that ComfyUI's ordinary text nodes work with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import comfy.ops
import comfy.sd
import torch

from ...redux.words import WordTable

Tokens = dict[str, list[list[tuple[int, float]]]]


class WordTokenizer:
    """Text to rows of the table, in the form that comfy.sd.CLIP passes around."""

    def __init__(self, table: WordTable) -> None:
        self.table = table

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> Tokens:
        return {"words": [[(row, 1.0) for row in self.table.ids(text)]]}

    def state_dict(self) -> dict[str, Any]:
        return {}


class WordEncoder(torch.nn.Module):
    """An embedding under the interface that comfy.sd.CLIP expects of a text model."""

    def __init__(self, size: tuple[int, int], device: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.words = comfy.ops.manual_cast.Embedding(*size, device=device, dtype=dtype)
        self.dtypes = {dtype}

    def encode_token_weights(self, tokens: Tokens) -> tuple[torch.Tensor, None]:
        device = self.execution_device
        rows_1T = torch.tensor([[row for row, _ in tokens["words"][0]]], device=device)
        return self.words(rows_1T, out_dtype=torch.float32), None

    def reset_clip_options(self) -> None:
        self.execution_device = None

    def set_clip_options(self, options: dict[str, Any]) -> None:
        self.execution_device = options.get("execution_device", self.execution_device)

    def load_sd(self, state_dict: dict[str, torch.Tensor]) -> Any:
        return self.load_state_dict(state_dict, strict=True, assign=getattr(self, "can_assign_sd", False))


def load_words(path: str) -> comfy.sd.CLIP:
    """A word table as a CLIP object.

    Raises:
        FileNotFoundError, ValueError: one sentence that says what the file is and what is needed.
    """
    table = WordTable.load(path)
    rows, width = table.weight_VD.shape

    def build(dtype: torch.dtype, device: Any, model_options: dict[str, Any]) -> WordEncoder:
        return WordEncoder((rows, width), device, dtype)

    target = SimpleNamespace(params={}, clip=build, tokenizer=lambda **_: WordTokenizer(table))
    return comfy.sd.CLIP(target, parameters=rows * width, state_dict=[{"words.weight": table.weight_VD}])
