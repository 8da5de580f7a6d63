"""What the Comfy registry wants of a pack, by its own tool, and what the published archive holds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import redux
from tools import publish
from tools.errors import ToolError

pytest.importorskip("comfy_cli")
ROOT = Path(__file__).resolve().parents[2]
READ = """
import json
from comfy_cli.registry.config_parser import extract_node_configuration
config = extract_node_configuration()
print(json.dumps([config.project.name, config.project.version, config.project.urls.repository,
    config.tool_comfy.publisher_id, config.tool_comfy.icon, config.tool_comfy.banner_url]))
"""


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    archive = tmp_path_factory.mktemp("archive") / "node.zip"
    publish.pack(archive)
    assert archive.stat().st_size < 70_000_000
    return set(zipfile.ZipFile(archive).namelist())


def test_the_registrys_own_checks_pass() -> None:
    assert "All validation checks passed" in publish.comfy("node", "validate", cwd=ROOT)


def test_a_publisher_fills_in_the_rest(tmp_path: Path) -> None:
    """As the workflow does before it publishes; read back by the registry's tool."""
    text = publish.fill((ROOT / "pyproject.toml").read_text("utf-8"), "https://example.com/a/b", "somebody", "0123abc")
    (tmp_path / "pyproject.toml").write_text(text, "utf-8")
    done = subprocess.run([sys.executable, "-c", READ], cwd=tmp_path, capture_output=True, text=True, check=True)
    raw = "https://example.com/a/b/raw/0123abc/docs"
    told = ["https://example.com/a/b", "somebody", f"{raw}/icon.png", f"{raw}/banner.jpg"]
    assert json.loads(done.stdout.splitlines()[-1]) == ["redux-control", redux.__version__, *told]
    with pytest.raises(ToolError, match="neither"):
        publish.fill(text, "https://example.com/a/b", "somebody")


def test_icon_and_banner_have_the_registrys_shapes() -> None:
    icon, banner = (Image.open(ROOT / publish.PICTURES[name]) for name in ("Icon", "Banner"))
    assert icon.width == icon.height <= 400
    assert banner.width * 9 == banner.height * 21


def test_one_version() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert re.findall(r'^version = "(.+)"$', text, re.MULTILINE) == [redux.__version__]
    assert re.search(rf"^## {re.escape(redux.__version__)}$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)


def test_the_archive_holds_what_users_need(names: set[str]) -> None:
    folders = {name.split("/")[0] for name in names if "/" in name}
    assert folders == {"api", "convert", "locales", "miniature", "nodes", "redux", "subgraphs", "workflows"}
    wanted = {"__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "CHANGELOG.md"}
    assert {name for name in names if "/" not in name} == wanted
    assert {"miniature/install.py", "miniature/weights/manifest.json", "miniature/references/first.png"} <= names
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "nodes" / "web").rglob("*.md")}
    assert len(pages) > 20 and pages <= names
    assert not [name for name in names if name.startswith("miniature/recipe") or name.endswith((".pyc", ".orig"))]
