"""`make demo`: what Redux Control does, from a real, headless ComfyUI, on one contact sheet.

It runs on the miniature FLUX of the pack. With --workflow it runs that workflow on the model files it names, in your
ComfyUI (COMFYUI_PATH). A folder output/demo-NNN is made for every run, so nothing is ever overwritten and several may
run at once.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from miniature.install import install

from . import tour, workflow
from .client import Client, Progress
from .errors import ToolError
from .host import ROOT, ensure
from .server import Server
from .sheet import Cell, Row, contact_sheet
from .signals import end_if_asked, end_on_signals
from .tour import Chapter, Shot

STRENGTHS = (1.0, 0.3, 0.0)


def make(args: argparse.Namespace) -> Path:
    """Run everything; returns the path of the contact sheet."""
    for path in (args.image, tour.SECOND):
        _read_image(path)
    _check_writable(args.output)
    graph = workflow.read(args.workflow) if args.workflow else None
    host = ensure(None)
    with ExitStack() as stack:
        base = Path(stack.enter_context(_scratch()))
        (base / "models").mkdir()
        install(base / "models")
        _say(f"Starting ComfyUI {host.version} ({host.path}) ...")
        client = Client(stack.enter_context(Server(host, base, port=args.port)).url)
        names = client.upload(args.image), client.upload(tour.SECOND)
        if graph is None:
            chapters = list(tour.chapters(args.image, names))
        else:
            _check(graph, client)
            chapters = list(_vary(graph, args, names[0]))
        folder = _new_folder(args.output)
        stack.callback(_remove_empty, folder)
        rows = _take(client, chapters, folder)
    sheet = folder / "sheet.png"
    contact_sheet(rows, "Redux Control", _note(graph)).save(sheet)
    return sheet


def _note(graph: workflow.Workflow | None) -> str:
    if graph is not None:
        return ""
    return "Made on this machine with the pack's miniature FLUX, 128 x 128 pixels; the prompt is empty unless named."


def _check(graph: workflow.Workflow, client: Client) -> None:
    """Raises ToolError when the server lacks a file that the workflow names."""
    graph = {key: node for key, node in graph.items() if node["class_type"] != "LoadImage"}
    missing = sorted({value for *_, value in workflow.missing_choices(graph, client.object_info())})
    if missing:
        raise ToolError(f"Not in this ComfyUI: {', '.join(missing)}; name one that has them with COMFYUI_PATH.")


def _vary(graph: workflow.Workflow, args: argparse.Namespace, name: str) -> Iterator[Chapter]:
    """The user's own workflow at three strengths and several seeds."""
    graph = workflow.set_inputs(graph, "LoadImage", image=name)
    for strength in STRENGTHS:
        weighed = workflow.set_inputs(graph, "ReduxApply", strength=strength)
        shots = tuple(
            Shot(f"strength-{strength:.2f}-seed-{seed}", workflow.set_seed(weighed, seed), (f"seed {seed}",))
            for seed in range(1, args.seeds + 1)
        )
        yield Chapter(f"strength {strength:g}", ((args.image, "the reference"),), shots)


def _take(client: Client, chapters: Sequence[Chapter], folder: Path) -> list[Row]:
    """Run all shots; each picture is written as soon as it is there."""
    total = sum(len(chapter.shots) for chapter in chapters)
    rows, number = [], 0
    for chapter in chapters:
        cells = [Cell(_read_image(path), caption) for path, caption in chapter.references]
        for shot in chapter.shots:
            number += 1
            cells += _run(client, shot, f"[{number}/{total}] {shot.name}", folder)
        rows.append(Row(chapter.title, cells))
    _show("")
    return rows


def _run(client: Client, shot: Shot, label: str, folder: Path) -> Iterator[Cell]:
    _show(label)

    def show(progress: Progress) -> None:
        _show(f"{label}: {progress.node_type} {_bar(progress)} {progress.value}/{progress.max}")

    images = client.run(shot.graph, show).images
    if not images:
        raise ToolError("The workflow saved no picture; it needs a Save Image node.")
    for index, (image, caption) in enumerate(zip(images, shot.captions, strict=False), 1):
        content = client.fetch(image)
        suffix = f"-{index}" if len(images) > 1 else ""
        (folder / f"{shot.name}{suffix}.png").write_bytes(content)
        picture = Image.open(io.BytesIO(content))
        yield Cell(picture, caption, span=2 if picture.width > 1.25 * picture.height else 1)


def _read_image(path: Path) -> Image.Image:
    """As *Load Image* reads it: turned as its camera said, and 16 bits scaled to 8, which Pillow itself clips."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):
                upright = Image.fromarray((np.asarray(upright).clip(0, 65535) >> 8).astype(np.uint8))
            return upright.convert("RGB")
    except Exception as error:  # Pillow's readers of damaged files raise all kinds
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
        raise ToolError(f"The picture {path} cannot be read: {reason}.") from error


def _check_writable(folder: Path) -> None:
    """Raises ToolError where no folder can be made in this one, before minutes have gone into pictures."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(prefix=".demo-", dir=folder)).rmdir()
    except OSError as error:
        raise ToolError(f"No pictures can be written to {folder}: {error.strerror or error}.") from error


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it has pictures
        folder.rmdir()


def _new_folder(output: Path) -> Path:
    """The first demo-NNN that is free; making it claims it against a run beside this one."""
    number = 1
    while True:
        folder = output / f"demo-{number:03d}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


@contextmanager
def _scratch() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="redux-demo-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _bar(progress: Progress, width: int = 20) -> str:
    done = width * progress.value // max(1, progress.max)
    return "[" + "#" * done + "." * (width - done) + "]"


def _show(text: str) -> None:
    """The progress line: one that rewrites itself on a terminal, nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image", type=Path, default=tour.FIRST, help="the reference picture")
    parser.add_argument("--workflow", type=Path, help="a workflow in API format, run on the files it names")
    parser.add_argument("--output", type=Path, default=ROOT / "output", help="where demo-NNN is made")
    parser.add_argument("--seeds", type=int, default=3, help="pictures a row, with --workflow")
    parser.add_argument("--port", type=int, default=0, help="of the server; a free one unless given")
    args = parser.parse_args()
    end_on_signals()
    try:
        sheet = make(args)
        end_if_asked()
    except KeyboardInterrupt:
        _say("\nStopped.")
        sys.exit(130)
    except ToolError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.strerror or error}: {error.filename}")
    for path in sorted(sheet.parent.iterdir()):
        print(path)


if __name__ == "__main__":
    main()
