"""A real ComfyUI in this process, with small random-weight models, and the pack loaded as ComfyUI loads it.

Run this tier alone (`pytest tests/host`): ComfyUI's `nodes` and the library tests' path do not go together. The
version is that of REDUX_HOST (0.30.0, 0.24.0, 0.18.0), or else the user's own ComfyUI, or else the newest known.

ComfyUI stands on sys.path before any test file is imported, so a test file may `import comfy.samplers`, `import nodes`
(ComfyUI's) or `import folder_paths` at its top. The pack is the module `redux_control`:

    from redux_control.redux import ReduxTokens        # after the fixture `pack` was used, so inside a test
    def test(comfy, redux_nodes):
        model = redux_nodes["ReduxLoader"].execute(comfy.files.clip_vision, comfy.files.style_models, "default").args[0]
        flux = comfy.load_flux()                                     # MODEL, through Load Diffusion Model
        positive = comfy.conditioning(seed=1)                        # CONDITIONING: [[ctx_BLC, {"pooled_output": ...}]]
        latent = comfy.sample(flux, positive, steps=2)               # [B, 16, 16, 16], fp32 on a CPU

`comfy.files` and `comfy.sizes` say what the small models are called and how large they are; `comfy.write(...)` makes
others. Every test runs in inference mode, as nodes do.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def _load_package(name: str, folder: Path) -> ModuleType:
    """Import a folder as a package of any name, without its parent on sys.path. ComfyUI loads packs in this way."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_load_package("miniature", ROOT / "miniature")
_load_package("tools", ROOT / "tools")

from tools import checkpoints, host  # noqa: E402

HOST = host.ensure(os.environ.get("REDUX_HOST") or None)
BASE = Path(tempfile.mkdtemp(prefix="redux-host-"))
atexit.register(shutil.rmtree, BASE, ignore_errors=True)

sys.path[:] = [str(HOST.path), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
sys.path.append(str(Path(__file__).parent))  # for redux_scene.py

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = not torch.cuda.is_available()
# On a GPU as on a CPU: these tests compare exact things. Half precision has tests of its own.
comfy.cli_args.args.force_fp32 = True
torch.backends.cudnn.allow_tf32 = False
comfy.cli_args.args.base_directory = str(BASE)


class Comfy:
    """What tests need of ComfyUI. Models load through its own nodes, as in a workflow."""

    def __init__(self) -> None:
        import comfy.model_management
        import folder_paths

        import nodes

        if torch.cuda.is_available():  # or fp32 would keep the towers on the CPU
            comfy.model_management.text_encoder_device = comfy.model_management.get_torch_device

        self.version = tuple(int(part) for part in HOST.version.split(".")[:3])
        self.path = HOST.path
        self.base = BASE
        self.models = BASE / "models"
        self.nodes = nodes
        self.folder_paths = folder_paths
        self.sizes = checkpoints.SIZES
        self.files = checkpoints.write_checkpoints(self.models)
        for folder in ("input", "output", "temp", "user"):
            (BASE / folder).mkdir(exist_ok=True)

    def write(self, sizes: checkpoints.Sizes, prefix: str, seed: int = 0) -> checkpoints.FileNames:
        """Another set of small models, its file names beginning with `prefix`."""
        names = {kind: f"{prefix}-{name}" for kind, name in vars(checkpoints.NAMES).items()}
        return checkpoints.write_checkpoints(self.models, sizes, seed, checkpoints.FileNames(**names))

    def load_flux(self, name: str | None = None, dtype: str = "default") -> Any:
        """MODEL, freshly loaded: fp32 on a CPU."""
        return self.nodes.UNETLoader().load_unet(name or self.files.diffusion_models, dtype)[0]

    def load_vae(self, name: str | None = None) -> Any:
        return self.nodes.VAELoader().load_vae(name or self.files.vae)[0]

    def conditioning(self, seed: int = 0, tokens: int = 8, batch: int = 1, **extra: Any) -> list[list[Any]]:
        """CONDITIONING as a text encoder gives it: random vectors in the small FLUX's context width."""
        generator = torch.Generator().manual_seed(seed)
        context_BLC = torch.randn(batch, tokens, self.sizes.context, generator=generator)
        return [[context_BLC, {"pooled_output": torch.zeros(batch, 768), **extra}]]

    def empty_latent(self, height: int = 128, width: int = 128, batch: int = 1) -> dict[str, torch.Tensor]:
        return {"samples": torch.zeros(batch, 16, height // 8, width // 8)}

    def sample(
        self,
        model: Any,
        positive: list[list[Any]],
        negative: list[list[Any]] | None = None,
        *,
        latent: dict[str, torch.Tensor] | None = None,
        steps: int = 2,
        cfg: float = 1.0,
        seed: int = 0,
        sampler: str = "euler",
        scheduler: str = "simple",
    ) -> torch.Tensor:
        """Latent samples of ComfyUI's KSampler node; 128 x 128 pixels unless a `latent` says otherwise."""
        negative = self.conditioning(seed=99) if negative is None else negative
        latent = latent or self.empty_latent()
        node = self.nodes.KSampler()
        return node.sample(model, seed, steps, cfg, sampler, scheduler, positive, negative, latent, 1.0)[0]["samples"]


@pytest.fixture(scope="session")
def comfy() -> Comfy:  # type: ignore[no-redef]
    return Comfy()


@pytest.fixture(scope="session")
def pack(comfy: Comfy) -> ModuleType:
    """The pack's root module, named `redux_control`; its parts are `redux_control.redux`, `redux_control.nodes`."""
    return sys.modules.get("redux_control") or _load_package("redux_control", ROOT)


@pytest.fixture(scope="session")
def redux_nodes(pack: ModuleType) -> dict[str, Any]:
    """The pack's node classes by node id, from its entry point."""

    async def load() -> list[Any]:
        entry = pack.comfy_entrypoint()
        extension = await entry if asyncio.iscoroutine(entry) else entry
        await extension.on_load()
        return list(await extension.get_node_list())

    return {cls.GET_SCHEMA().node_id: cls for cls in asyncio.run(load())}


@pytest.fixture(scope="session")
def scene(comfy: Comfy, pack: ModuleType, redux_nodes: dict[str, Any]) -> Any:
    """References on a small FLUX; see redux_scene.py."""
    from redux_scene import Scene

    return Scene(comfy, pack, redux_nodes)


@pytest.fixture(scope="session")
def controlnet(comfy: Comfy) -> Any:  # type: ignore[valid-type]
    """A small ControlNet of random weights, ComfyUI's own for FLUX."""
    from comfy.controlnet import ControlNet
    from comfy.ldm.flux.controlnet import ControlNetFlux
    from comfy.model_management import get_torch_device
    from comfy.ops import manual_cast

    sizes = comfy.sizes
    network = ControlNetFlux(
        in_channels=16,
        out_channels=16,
        vec_in_dim=768,
        context_in_dim=sizes.context,
        hidden_size=sizes.hidden,
        mlp_ratio=4.0,
        num_heads=sizes.hidden // 128,
        depth=1,
        depth_single_blocks=0,
        axes_dim=[16, 56, 56],
        theta=10000,
        patch_size=2,
        qkv_bias=True,
        guidance_embed=False,
        txt_ids_dims=[],
        dtype=torch.float32,
        operations=manual_cast,
    )
    generator = torch.Generator().manual_seed(4)
    for weight in network.parameters():
        size = weight[0].numel() if weight.ndim > 1 else 400
        weight.data = torch.randn(weight.shape, generator=generator) * size**-0.5
    return ControlNet(network, load_device=get_torch_device(), extra_conds=["y", "guidance"])


@pytest.fixture(autouse=True)
def _inference_mode() -> Iterator[None]:
    with torch.inference_mode():
        yield
