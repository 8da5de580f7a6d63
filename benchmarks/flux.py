"""FLUX.1-dev at full size in a real ComfyUI, with random weights, and the conditionings that are compared on it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
TEXT_TOKENS = 256
REFERENCE_TOKENS = 729


def load_pack(comfyui: Path, gpu_only: bool = True) -> ModuleType:
    """ComfyUI on the path, then the pack as ComfyUI loads it."""
    sys.path[:] = [str(comfyui), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    from comfy.cli_args import args

    args.cpu, args.gpu_only = not torch.cuda.is_available(), gpu_only and torch.cuda.is_available()
    spec = importlib.util.spec_from_file_location(
        "redux_control", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["redux_control"] = module
    spec.loader.exec_module(module)
    return module


def load_flux(small: bool) -> Any:
    """FLUX.1-dev with random bf16 weights, through ComfyUI's loader."""
    import comfy.ldm.flux.model
    import comfy.model_management
    import comfy.ops
    import comfy.sd

    size = {"hidden_size": 256, "num_heads": 2, "depth": 1, "depth_single_blocks": 2, "context_in_dim": 128}
    full = {"hidden_size": 3072, "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "context_in_dim": 4096}
    shapes = comfy.ldm.flux.model.Flux(
        in_channels=16, out_channels=16, vec_in_dim=768, mlp_ratio=4.0, axes_dim=[16, 56, 56], theta=10000,
        patch_size=2, qkv_bias=True, guidance_embed=True, txt_ids_dims=[], device="meta", dtype=torch.bfloat16,
        operations=comfy.ops.disable_weight_init, **(size if small else full),
    ).state_dict()  # fmt: skip
    device = comfy.model_management.get_torch_device()
    weights = {}
    for key, meta in shapes.items():
        weight = torch.empty(meta.shape, dtype=torch.bfloat16, device=device)
        if "norm" in key:
            weights[key] = weight.fill_(1.0)
        else:
            weights[key] = weight.normal_(0, meta.shape[-1] ** -0.5 if meta.ndim > 1 else 0.02)
    return comfy.sd.load_diffusion_model_state_dict(weights)


class Conditionings:
    """The conditionings that are compared, with random text and references."""

    def __init__(self, pack: ModuleType, width: int, side: int = 27) -> None:
        import nodes

        self.pack = pack
        self.nodes = nodes
        self.apply = sys.modules["redux_control.nodes.apply"].ReduxApply
        self.generator = torch.Generator().manual_seed(0)
        self.width, self.side = width, side
        text = torch.randn(1, TEXT_TOKENS, width, generator=self.generator)
        self.text_only = [[text, {"pooled_output": torch.zeros(1, 768), "guidance": 3.5}]]

    def tokens(self, side: int | None) -> Any:
        side = side or self.side
        values = torch.randn(1, side * side, self.width, generator=self.generator)
        part = self.pack.redux.tokens.Part(((side, side),), REFERENCE_TOKENS)
        return self.pack.redux.ReduxTokens(values, (part,))

    def core(self, count: int, strength: float, kind: str, side: int | None = None) -> list:
        conditioning = self.text_only
        for _ in range(count):
            tokens = self.tokens(side).tokens
            style = SimpleNamespace(get_cond=lambda _, tokens=tokens: tokens.clone())
            conditioning = self.nodes.StyleModelApply().apply_stylemodel(conditioning, style, None, strength, kind)[0]
        return conditioning

    def ours(
        self, count: int, side: int | None = None, region: bool = False, strengths: Sequence[float] = (), **options: Any
    ) -> list:
        conditioning = self.text_only
        for index in range(count):
            if strengths:
                options["strength"] = strengths[index]
            mask = None
            if region:
                mask = torch.zeros(1, 64, 64)
                mask[:, :, 64 * index // count : 64 * (index + 1) // count] = 1.0
            conditioning = self.apply.execute(conditioning, self.tokens(side), region=mask, **options).args[0]
        return conditioning
