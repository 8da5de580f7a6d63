"""Attention kernels of other packages, which people choose for their speed, called so that they give a log-sum-exp.

Each is called by its package's public function. A package that is missing raises ImportError, one whose function is of
another kind TypeError or AttributeError: whoever calls tries the next kernel.

Shapes: B batch, H heads, L queries, K keys, D head size.
"""

from __future__ import annotations

import importlib
import importlib.util

from torch import Tensor

FLASH = ("flash_attn_interface", "flash_attn")  # FlashAttention 3 and 2


def sage(q_BHLD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    """SageAttention 2: queries and keys in INT8. Output [B, H, L, D] and log-sum-exp [B, H, L]."""
    sageattn = importlib.import_module("sageattention").sageattn
    return sageattn(q_BHLD, k_BHKD, v_BHKD, tensor_layout="HND", is_causal=False, sm_scale=scale, return_lse=True)


def flash_attn(q_BHLD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    """FlashAttention 3 where its package is, else 2. Both return more than the output when asked for probabilities."""
    package = next((name for name in FLASH if importlib.util.find_spec(name)), FLASH[-1])
    function = importlib.import_module(package).flash_attn_func
    q_BLHD, k_BKHD, v_BKHD = (x.transpose(1, 2) for x in (q_BHLD, k_BHKD, v_BHKD))
    out_BLHD, lse_BHL, *_ = function(q_BLHD, k_BKHD, v_BKHD, softmax_scale=scale, return_attn_probs=True)
    return out_BLHD.transpose(1, 2), lse_BHL


def xformers(q_BHLD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    """The forward pass that xformers has for training. Its log-sum-exp may be padded along the queries."""
    function = importlib.import_module("xformers.ops").memory_efficient_attention_forward_requires_grad
    out_BLHD, lse_BHL = function(*(x.transpose(1, 2) for x in (q_BHLD, k_BHKD, v_BHKD)), scale=scale)
    return out_BLHD.transpose(1, 2), lse_BHL
