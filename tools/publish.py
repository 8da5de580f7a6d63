"""What is published on the Comfy registry: the archive, and the lines of pyproject.toml that only a publisher knows.

    python -m tools.publish fill --repository URL --publisher ID [--revision NAME]     writes them into pyproject.toml
    python -m tools.publish pack FILE.zip                                              builds the archive

The archive is built by comfy-cli from a copy of what git knows, with .comfyignore.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .errors import ToolError
from .host import ROOT

PICTURES = {"Icon": "docs/icon.png", "Banner": "docs/banner.jpg"}
SECTION = "\n[tool.comfy]\n"


def fill(pyproject: str, repository: str, publisher: str, revision: str = "main") -> str:
    """pyproject.toml with Repository, PublisherId, and the addresses of the pictures at a revision.

    Raises:
        ToolError: it has them already.
    """
    if pyproject.count(SECTION) != 1 or "[project.urls]" in pyproject or "PublisherId" in pyproject:
        raise ToolError("pyproject.toml must have one [tool.comfy], and neither [project.urls] nor a PublisherId.")
    lines = [f'{name} = "{repository}/raw/{revision}/{path}"' for name, path in PICTURES.items()]
    comfy = SECTION + "\n".join([f'PublisherId = "{publisher}"', *lines, ""])
    return pyproject.replace(SECTION, f'\n[project.urls]\nRepository = "{repository}"\n{comfy}')


def copy_checkout(folder: Path, root: Path = ROOT) -> None:
    """A copy of the checkout as git sees it, new files included, with a git index of its own."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, folder / name)
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


def comfy(*arguments: str, cwd: Path) -> str:
    """Run comfy-cli, which finds no settings and sends nothing; returns what it said.

    Raises:
        ToolError: it failed.
    """
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", *arguments]
        environ = {**os.environ, "HOME": home, "DO_NOT_TRACK": "1", "COLUMNS": "200"}
        done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"comfy {' '.join(arguments)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout + done.stderr


def pack(archive: Path, root: Path = ROOT) -> None:
    """Build what would be published."""
    with tempfile.TemporaryDirectory(prefix="redux-pack-") as folder:
        copy_checkout(Path(folder), root)
        comfy("node", "pack", cwd=Path(folder))
        (built,) = Path(folder).glob("*.zip")
        shutil.move(built, archive)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    filling = jobs.add_parser("fill")
    filling.add_argument("--repository", required=True)
    filling.add_argument("--publisher", required=True)
    filling.add_argument("--revision", default="main")
    jobs.add_parser("pack").add_argument("archive", type=Path)
    args = parser.parse_args()
    try:
        if args.job == "pack":
            pack(args.archive)
        else:
            path = ROOT / "pyproject.toml"
            text = fill(path.read_text("utf-8"), args.repository, args.publisher, args.revision)
            path.write_text(text, "utf-8")
    except ToolError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
