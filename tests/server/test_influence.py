"""An influence map that is added to a finished graph."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from redux.heatmap import Sheet
from tools import workflow
from tools.client import Client, Progress

REGIONS = Path(__file__).resolve().parents[2] / "workflows" / "api" / "two_references_in_two_regions.json"

Small = Callable[..., workflow.Workflow]


def pixels(client: Client, image: dict[str, str]) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(client.fetch(image))).convert("RGB"), dtype=np.float32) / 255


def size(picture: dict[str, str], client: Client) -> tuple[int, int]:
    height, width = pixels(client, picture).shape[:2]
    return width, height


def test_a_map_added_to_a_finished_graph_samples_once_more(client: Client, small: Small) -> None:
    """The sampler runs again, since nothing was recorded; the picture stays, and the map shows the two halves."""
    graph = small(REGIONS, seed=21)
    key = next(key for key, node in graph.items() if node["class_type"] == "ReduxInfluence")
    before = client.run({k: n for k, n in graph.items() if k != key and [key, 0] not in n["inputs"].values()})
    steps: list[Progress] = []
    result = client.run(graph, steps.append)
    assert any("Sampler" in step.node_type for step in steps)
    sheets = [image for image in result.images if "influence" in image["filename"]]
    (picture,) = [image for image in result.images if image not in sheets]
    assert np.abs(pixels(client, picture) - pixels(client, before.images[0])).max() < 2 / 255

    sheet = pixels(client, sheets[0])
    colorful = sheet.max(-1) - sheet.min(-1) > 0.08
    layout = Sheet.for_picture(*size(picture, client), 5)  # the picture, two references, text, image
    assert sheet.shape[1::-1] == layout.size
    halves = []
    for number in (1, 2):
        (left, top), (width, height) = layout.place(number), layout.extent(number)
        tile = colorful[top : top + height, left : left + width]
        halves.append((tile[:, : width // 2 - 48].mean(), tile[:, width // 2 + 48 :].mean()))
    (left_inside, left_outside), (right_outside, right_inside) = halves
    assert min(left_inside, right_inside) > 0.5 and max(left_outside, right_outside) == 0


def test_a_graph_with_its_map_is_not_sampled_again(client: Client, small: Small) -> None:
    graph = small(REGIONS, seed=22)
    client.run(graph)
    steps: list[Progress] = []
    client.run(graph, steps.append)
    assert not any("Sampler" in step.node_type for step in steps)
