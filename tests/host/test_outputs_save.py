"""Save Image: pixels, the workflow as ComfyUI's page reads it, names, and numbers that no two writers share."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

WORKFLOW = {"nodes": [{"id": 1, "type": "ReduxSaveImage", "title": "caf\u00e9: \u732b"}], "version": 0.4}
PROMPT = {"9": {"class_type": "ReduxSaveImage", "inputs": {"filename_prefix": "a:b"}}}


@pytest.fixture
def output(comfy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    before = comfy.folder_paths.get_output_directory()
    comfy.folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    comfy.folder_paths.set_output_directory(before)


@pytest.fixture
def save(redux_nodes: Any, output: Path) -> Any:
    def run(
        images: torch.Tensor,
        format: str = "png",
        prefix: str = "redux",
        quality: int = 90,
        workflow: Any = WORKFLOW,
        prompt: Any = PROMPT,
        **more: Any,
    ) -> list[Path]:
        node = type("Saver", (redux_nodes["ReduxSaveImage"],), {})
        node.hidden = SimpleNamespace(prompt=prompt, extra_pnginfo=workflow and {"workflow": workflow, "extra": [1]})
        saved = node.execute(images, prefix, format, quality, **more).ui["images"]
        return [output / image["subfolder"] / image["filename"] for image in saved]

    return run


def picture(height: int = 24, width: int = 40, channels: int = 3, batch: int = 1, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(batch, channels, 3, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1).movedim(1, -1)


def page_texts(path: Path) -> dict[str, str]:
    """What the page finds: PNG's text chunks, or the ASCII tags of EXIF, split at the first colon."""
    with Image.open(path) as image:
        image.load()
        if image.format == "PNG":
            return dict(image.text)
        return dict(value.split(":", 1) for value in image.getexif().values() if isinstance(value, str))


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_workflow_and_prompt_are_in_the_file(save: Any, format: str) -> None:
    texts = page_texts(save(picture(), format)[0])
    assert json.loads(texts["workflow"]) == WORKFLOW
    assert json.loads(texts["prompt"]) == PROMPT
    assert json.loads(texts["extra"]) == [1]


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_nothing_is_in_the_file_where_the_workflow_is_not_wanted(save: Any, format: str) -> None:
    (path,) = save(picture(), format, embed_workflow=False)
    assert not page_texts(path) and b"ReduxSaveImage" not in path.read_bytes()


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_a_workflow_longer_than_a_jpeg_segment(save: Any, format: str) -> None:
    long = {"nodes": [{"id": n, "type": f"Node{n}", "x": "\u00fc" * 40} for n in range(3000)]}
    path = save(picture(), format, workflow=long)[0]
    assert path.stat().st_size > 500_000
    assert json.loads(page_texts(path)["workflow"]) == long
    with Image.open(path) as image:
        assert image.convert("RGB").size == (40, 24)


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_no_metadata_when_it_is_switched_off(save: Any, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.cli_args

    monkeypatch.setattr(comfy.cli_args.args, "disable_metadata", True)
    assert page_texts(save(picture(), format)[0]) == {}


def test_png_keeps_every_pixel(save: Any) -> None:
    for channels in (1, 3, 4):
        levels = torch.arange(256).reshape(1, 16, 16, 1).expand(1, 16, 16, channels) / 255
        with Image.open(save(levels, "png")[0]) as image:
            expected = (levels[0, ..., 0] if channels == 1 else levels[0]).mul(255).round().byte().numpy()
            assert np.array_equal(np.asarray(image), expected)


@pytest.mark.parametrize("format", ["jpg", "webp"])
def test_quality_buys_closeness_and_costs_bytes(save: Any, format: str) -> None:
    image = picture(96, 128) + 0.1 * torch.randn(1, 96, 128, 1, generator=torch.Generator().manual_seed(1))
    errors, sizes = [], []
    for quality in (1, 30, 60, 90, 100):
        path = save(image, format, quality=quality)[0]
        with Image.open(path) as saved:
            assert saved.format == {"jpg": "JPEG", "webp": "WEBP"}[format]
            pixels = np.asarray(saved.convert("RGB"), np.float32) / 255
        errors.append(float(np.abs(pixels - image[0].clamp(0, 1).numpy()).mean()))
        sizes.append(path.stat().st_size)
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5 * errors[0]
    assert sizes == sorted(sizes)


def test_alpha_is_kept_or_laid_on_white(save: Any) -> None:
    image = torch.zeros(1, 16, 16, 4)
    image[..., 3] = 0.0
    for format in ("png", "webp"):
        with Image.open(save(image, format)[0]) as saved:
            assert saved.mode == "RGBA" and saved.getpixel((3, 3))[3] == 0
    with Image.open(save(image, "jpg")[0]) as saved:
        assert min(saved.getpixel((3, 3))) > 250


def test_values_out_of_range_and_not_numbers(save: Any) -> None:
    image = torch.tensor([-1.0, 2.0, float("nan"), float("inf")]).reshape(1, 1, 4, 1).expand(1, 1, 4, 3)
    with Image.open(save(image, "png")[0]) as saved:
        assert [saved.getpixel((x, 0))[0] for x in range(4)] == [0, 255, 0, 255]


@pytest.mark.parametrize("node", ["ReduxSaveImage", "ReduxSafetyCheck", "ReduxSweepSheet", "ReduxInfluence"])
def test_a_picture_without_its_batch_is_one_sentence(redux_nodes: Any, node: str) -> None:
    others = {
        "ReduxSaveImage": {"filename_prefix": "one", "format": "png", "quality": 90},
        "ReduxSafetyCheck": {"threshold": 0.8, "action": "blank"},
        "ReduxInfluence": {"conditioning": []},
    }
    words = r"The images have shape \(8, 9, 3\); \[batch, height, width, channels\] is needed\."
    with pytest.raises(ValueError, match=words):
        redux_nodes[node].execute(images=torch.rand(8, 9, 3), **others.get(node, {}))


def test_numbers_go_on_as_cores_do(comfy: Any, save: Any, output: Path) -> None:
    assert [path.name for path in save(picture(batch=2), prefix="a/b")] == ["b_00001_.png", "b_00002_.png"]
    assert [path.name for path in save(picture(), "webp", "a/b")] == ["b_00003_.webp"]
    core = comfy.nodes.SaveImage()
    core.output_dir = str(output)
    assert core.save_images(picture(), "a/b")["ui"]["images"][0]["filename"] == "b_00004_.png"
    assert [path.name for path in save(picture(), "jpg", "a/b")] == ["b_00005_.jpg"]
    assert [path.name for path in save(picture(batch=2), prefix="n%batch_num%-%width%")] == [
        "n0-40_00001_.png",
        "n1-40_00002_.png",
    ]


def test_many_writers_at_once_lose_nothing(save: Any, output: Path) -> None:
    start, made, failed = threading.Barrier(8), [], []

    def work(index: int) -> None:
        image = torch.full((1, 8, 8, 3), index / 255)
        start.wait()
        try:
            for _ in range(12):
                made.extend((index, path) for path in save(image))
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len({path for _, path in made}) == len(list(output.iterdir())) == 96
    for index, path in made:
        with Image.open(path) as saved:
            assert saved.getpixel((0, 0)) == (index, index, index)


def test_a_failed_write_leaves_no_file(save: Any, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.open

    def full_disk(path: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        file = real(path, mode, *args, **more)
        if mode == "wb":
            file.close()
            file = real("/dev/full", "wb", buffering=0)
        return file

    monkeypatch.setattr(builtins, "open", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(picture())
    assert not list(output.iterdir())


@pytest.mark.parametrize(
    "prefix", ["../x", "a/../../x", "/tmp/x", "\\x", "C:x", "c:/x", "..", "", "a/", "  ", "a/...", "x" * 300]
)
def test_bad_prefixes_are_refused(save: Any, output: Path, prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        save(picture(), prefix=prefix)
    assert not list(output.iterdir())


@settings(max_examples=150, deadline=None)
@given(prefix=st.text(st.characters(), max_size=30))
def test_any_prefix_is_refused_or_stays_inside(comfy: Any, pack: Any, prefix: str) -> None:
    clean = pack.nodes.host.outputs.clean_prefix
    try:
        name = clean(prefix)
    except ValueError as error:
        assert "prefix" in str(error)
        return
    path = (comfy.base / "output" / name).resolve()
    assert path.is_relative_to((comfy.base / "output").resolve()) and path.name
    assert not set(name) & set('<>:"|?*\\\0\n')
    assert clean(name) == name and name.encode("utf-8")


def test_device_names_of_windows_are_changed(pack: Any) -> None:
    clean = pack.nodes.host.outputs.clean_prefix
    assert [clean(name) for name in ("\ud83d", "con", "a/LPT1.x", "console", "a?b", "dots. ")] == [
        "_",  # half a pair of surrogates, as a text that was cut in an emoji ends in
        "_con",
        "a/_LPT1.x",
        "console",
        "a_b",
        "dots",
    ]
