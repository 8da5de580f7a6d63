"""The library for people without ComfyUI: a wheel of a checkout holds it alone, with its types, and works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
pytest.importorskip("setuptools")
pytest.importorskip("pip")

USE = """
import torch, redux
from redux.attention import weighted_attention
from redux.config import ReduxConfig, SiglipConfig

assert "site" in redux.__file__, redux.__file__
vision = SiglipConfig(hidden_size=64, mlp_size=96, num_layers=1, num_heads=2, image_size=56, patch_size=14)
model = redux.ReduxModel(vision, ReduxConfig(in_features=64, hidden_features=96, out_features=32)).eval()
tokens = model.encode(torch.rand(1, 40, 30, 3), fit="native").pool((2, 2))
assert tokens.tokens.shape == (1, 4, 32)
q = torch.rand(1, 2, 8, 16)
assert weighted_attention(q, q, q, [(0, 4, -1.0)]).shape == q.shape
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from copies, since setuptools leaves folders beside what it builds."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("redux", "nodes", "tests", "api"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "__init__.py", folder)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder / "dist"), str(folder)], check=True)
    (found,) = (folder / "dist").glob("*.whl")
    return found


def test_it_holds_the_library_and_nothing_else(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "redux").rglob("*.py")}
    assert set(names) == sources | {"redux/py.typed", "redux/attention/choices.json"}
    assert wheel.stat().st_size < 300_000


def test_it_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    subprocess.run([sys.executable, "-c", USE], check=True, cwd=tmp_path, env={"PYTHONPATH": str(site), "PATH": ""})


def write_flux(folder: Path, width: int) -> Path:
    """FLUX in diffusers' layout, as small as its classes allow; the text is `width` wide and has few words."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from tokenizers import Tokenizer, models
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    words = models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("a", -1.0)], unk_id=2)
    clip = CLIPTextConfig(
        vocab_size=3, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, eos_token_id=1
    )
    t5 = T5Config(vocab_size=4, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    vae = AutoencoderKL(block_out_channels=(16, 16), norm_num_groups=4, latent_channels=4, sample_size=32)
    vae.register_to_config(shift_factor=0.0)
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=CLIPTextModel(clip),
        tokenizer=CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=T5TokenizerFast(tokenizer_object=Tokenizer(words), extra_ids=0),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=width,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 6, 6),
            guidance_embeds=True,
        ),
    )
    pipe.save_pretrained(folder / "flux")
    return folder / "flux"


def test_the_example_of_the_readme(wheel: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    """Word for word but for the device, the size and the place of FLUX, on small models and diffusers' own pipeline."""
    pytest.importorskip("diffusers")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (example,) = (block for block in blocks if "FluxPipeline" in block)
    flux = write_flux(tmp_path / "models", width=128)
    for name, file in zip(re.findall(r'"([^"]+\.safetensors)"', example), files, strict=True):
        shutil.copy(file, tmp_path / name)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "reference.jpg")
    small = "guidance_scale=3.5, height=32, width=32, num_inference_steps=2)"
    changes = {'"cuda"': '"cpu"', '"black-forest-labs/FLUX.1-dev"': repr(str(flux)), "guidance_scale=3.5)": small}
    for found, used in changes.items():
        assert found in example
        example = example.replace(found, used)
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    env = {"PYTHONPATH": str(site), "PATH": "", "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", example], check=True, cwd=tmp_path, env=env)
    assert Image.open(tmp_path / "variation.png").size == (32, 32)
