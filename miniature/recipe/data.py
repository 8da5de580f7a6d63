"""Fetch four emoji sets and render the concepts that they share.

    python -m miniature.recipe.data .mini/emoji.npz --work /tmp/emoji

needs npm and the Python package resvg-py. The result is 33 MB; it is not part of the repository. It holds
`pixels` uint8 [styles, concepts, 128, 128, 4] (straight alpha), `names`, `categories` (noto's) and `held_out` (bool).
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent": "@iconify-json/fluent-emoji@1.2.7",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
}
SIDE = 128
HELD_OUT = 100
HELD_OUT_SEED = 3
# Missing from noto's list of categories.
EXTRA_CATEGORIES = {"hugging-face": "Smileys & Emotion", "knocked-out-face": "Smileys & Emotion"}


def fetch(work: Path) -> dict[str, Path]:
    """Install the packages below `work` with npm; folders by style."""
    work.mkdir(parents=True, exist_ok=True)
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", *PACKAGES.values()], cwd=work, check=True)
    return {style: work / "node_modules" / package.rsplit("@", 1)[0] for style, package in PACKAGES.items()}


def is_wanted(name: str) -> bool:
    """No skin tones (they differ in colour only) and no flags of countries."""
    return "skin-tone" not in name and (not name.startswith("flag-") or name == "flag-in-hole")


def concepts(sets: dict[str, dict[str, Any]], metadata: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """Names that all sets have, in alphabetical order, and noto's category for each."""
    shared = set.intersection(*(set(icons["icons"]) for icons in sets.values()))
    category = {name: key for key, names in metadata.items() for name in names} | EXTRA_CATEGORIES
    names = sorted(name for name in shared if is_wanted(name) and name in category)
    return names, [category[name] for name in names]


def svg(icons: dict[str, Any], name: str) -> str:
    """One icon as an SVG document; sizes fall back to those of the set, as the IconifyJSON format says."""
    icon = icons["icons"][name]
    box = [icon.get(key, icons.get(key, default)) for key, default in zip(("left", "top"), (0, 0), strict=True)]
    size = [icon.get(key, icons.get(key, 16)) for key in ("width", "height")]
    view = " ".join(str(number) for number in (*box, *size))
    xmlns = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {xmlns} width="{SIDE}" height="{SIDE}" viewBox="{view}">{icon["body"]}</svg>'


def render(text: str, side: int = SIDE) -> np.ndarray:
    """SVG to uint8 [side, side, 4], centred if the icon is not square."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=text, width=side, height=side, skip_system_fonts=True)
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(canvas)


def held_out(count: int) -> np.ndarray:
    """Which concepts no training step sees: bool [count], the same for the same count."""
    chosen = np.random.default_rng(HELD_OUT_SEED).permutation(count)[:HELD_OUT]
    return np.isin(np.arange(count), chosen)


def build(work: Path, processes: int) -> dict[str, np.ndarray]:
    folders = fetch(work)
    sets = {style: json.loads((folder / "icons.json").read_text("utf-8")) for style, folder in folders.items()}
    metadata = json.loads((folders["noto"] / "metadata.json").read_text("utf-8"))["categories"]
    names, categories = concepts(sets, metadata)
    pixels = []
    with ProcessPoolExecutor(processes) as pool:
        for icons in sets.values():
            pixels.append(np.stack(list(pool.map(render, map(partial(svg, icons), names), chunksize=16))))
    return {
        "pixels": np.stack(pixels),
        "names": np.array(names),
        "categories": np.array(categories),
        "held_out": held_out(len(names)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for the npm packages")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    arrays = build(arguments.work, arguments.processes)
    blank = [str(arrays["names"][index]) for index in np.flatnonzero(~arrays["pixels"][..., 3].any((0, 2, 3)))]
    if blank:
        raise SystemExit(f"{len(blank)} concepts rendered to nothing in every style, e.g. {blank[0]}.")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.output, allow_pickle=False, **arrays)
    names = arrays["names"][arrays["held_out"]]
    (Path(__file__).parent / "held_out.txt").write_text("\n".join(names) + "\n", "ascii")
    print(f"{len(arrays['names'])} concepts, {len(names)} held out, {arguments.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
