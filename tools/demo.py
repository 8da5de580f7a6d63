"""`make demo`: variations of a photograph from a real, headless ComfyUI, and one contact sheet of them.

A folder output/demo-NNN is made for every run, so nothing is ever overwritten and several may run at once.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from . import checkpoints, workflow
from .client import Client, Progress
from .errors import ToolError
from .host import ROOT, ensure
from .server import Server, end_on_signals
from .sheet import Cell, Row, contact_sheet

PHOTOGRAPH = ROOT / "workflows" / "input" / "cat.jpg"
WORKFLOW = ROOT / "workflows" / "api" / "image_variation.json"
STRENGTHS = (1.0, 0.3, 0.0)
RANDOM = "The models are small and their weights are random: this shows that everything runs, not what Redux can do."


@dataclass(frozen=True)
class Shot:
    """One picture of the sheet."""

    strength: float
    seed: int

    @property
    def name(self) -> str:
        return f"strength-{self.strength:.2f}-seed-{self.seed}.png"


def make(args: argparse.Namespace) -> Path:
    """Run everything; returns the path of the contact sheet."""
    image, graph = _read_image(args.image), workflow.read(args.workflow)
    host = ensure(None)
    with ExitStack() as stack:
        base = Path(stack.enter_context(_scratch()))
        writer = stack.enter_context(_start_writing_checkpoints(base / "models"))
        _say(f"Starting ComfyUI {host.version} ({host.path}) ...")
        server = stack.enter_context(Server(host, base, port=args.port))
        if writer.wait():
            raise ToolError(f"The small models are not in {base}.")
        client = Client(server.url)
        missing = sorted(
            {value for *_, value in workflow.missing_choices(_without_images(graph), client.object_info())}
        )
        if missing:
            _say(f"Not in this ComfyUI: {', '.join(missing)}. {RANDOM}")
            graph = workflow.shrink(workflow.use_models(graph, vars(checkpoints.NAMES)), args.size, steps=4)
        graph = workflow.set_inputs(graph, "LoadImage", image=client.upload(args.image))
        folder = _new_folder(args.output)
        pictures = _take(client, graph, [Shot(s, n) for s in STRENGTHS for n in range(1, args.seeds + 1)], folder)
    sheet = folder / "sheet.png"
    _draw(image, pictures, RANDOM if missing else "").save(sheet)
    return sheet


def _take(client: Client, graph: workflow.Workflow, shots: list[Shot], folder: Path) -> dict[Shot, Image.Image]:
    pictures: dict[Shot, Image.Image] = {}
    for number, shot in enumerate(shots, 1):
        label = f"[{number}/{len(shots)}] strength {shot.strength:g}, seed {shot.seed}"
        _show(label)
        prompt = workflow.set_inputs(workflow.set_seed(graph, shot.seed), "ReduxApply", strength=shot.strength)

        def show(progress: Progress, label: str = label) -> None:
            _show(f"{label}: {progress.node_type} {_bar(progress)} {progress.value}/{progress.max}")

        result = client.run(prompt, show)
        if not result.images:
            raise ToolError("The workflow saved no picture; it needs a Save Image node.")
        content = client.fetch(result.images[0])
        (folder / shot.name).write_bytes(content)
        pictures[shot] = Image.open(io.BytesIO(content))
    _show("")
    return pictures


def _draw(reference: Image.Image, pictures: dict[Shot, Image.Image], note: str) -> Image.Image:
    rows = []
    for strength in STRENGTHS:
        shots = [shot for shot in pictures if shot.strength == strength]
        words = "text alone" if strength == 0 else "plain Redux" if strength == 1 else "weaker reference"
        cells = [Cell(pictures[shot], f"seed {shot.seed}") for shot in shots]
        first = Cell(reference, "the reference") if strength == STRENGTHS[0] else Cell(None)
        rows.append(Row(f"strength {strength:g}\n{words}", [first, *cells]))
    return contact_sheet(rows, "FLUX.1 Redux: variations of a photograph", note)


def _read_image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise ToolError(f"The picture {path} cannot be read: {error.strerror or error}.") from error


def _without_images(graph: workflow.Workflow) -> workflow.Workflow:
    return {key: node for key, node in graph.items() if node["class_type"] != "LoadImage"}


def _new_folder(output: Path) -> Path:
    """The first demo-NNN that is free; making it claims it against a run beside this one."""
    output.mkdir(parents=True, exist_ok=True)
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


@contextmanager
def _start_writing_checkpoints(models: Path) -> Iterator[subprocess.Popen[bytes]]:
    """In a process beside the server's start: it imports torch, which takes seconds."""
    writer = subprocess.Popen([sys.executable, "-m", "tools.checkpoints", str(models)], cwd=ROOT)
    try:
        yield writer
    finally:
        if writer.poll() is None:
            writer.kill()
            writer.wait()


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
    parser.add_argument("--image", type=Path, default=PHOTOGRAPH, help="the reference picture")
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="a workflow in API format")
    parser.add_argument("--output", type=Path, default=ROOT / "output", help="where demo-NNN is made")
    parser.add_argument("--seeds", type=int, default=3, help="pictures a row")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures with the small models")
    parser.add_argument("--port", type=int, default=0, help="of the server; a free one unless given")
    args = parser.parse_args()
    end_on_signals()
    try:
        sheet = make(args)
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
