"""What a user may do wrong, through a real server: one sentence on the right node, and the server goes on.

Model files that are wrong, pictures of a few pixels and values out of range are in test_end_to_end.py; settings that
ComfyUI leaves to the node to check in test_bad_settings.py.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tools import workflow
from tools.client import Client, ClientError
from tools.server import Server

API = Path(__file__).resolve().parents[2] / "workflows" / "api"
VARIATION, MIX = API / "image_variation.json", API / "mix_two_references.json"

Small = Callable[..., workflow.Workflow]


@pytest.fixture(scope="module", autouse=True)
def _still_running(server: Server) -> Iterator[None]:
    yield
    assert server.explain_end() is None


def node_id(graph: workflow.Workflow, class_type: str) -> str:
    return next(key for key, node in graph.items() if node["class_type"] == class_type)


def refused(client: Client, graph: workflow.Workflow, node_type: str, words: str) -> str:
    with pytest.raises(ClientError, match=words) as caught:
        client.run(graph)
    message = str(caught.value).removeprefix(f"{node_type}: ")
    assert caught.value.node_type == node_type
    assert "\n" not in message and message.endswith(".") and 20 < len(message) < 400
    assert not re.search(r"Traceback|size mismatch|Error\(|object has no attribute", message)
    return message


def rejected(client: Client, graph: workflow.Workflow, words: str) -> None:
    """By ComfyUI's validation, before anything runs."""
    with pytest.raises(ClientError, match=words):
        client.queue(graph)


def upload(client: Client, name: str, size: tuple[int, int] = (64, 64), mode: str = "RGB", colour: Any = 120) -> str:
    content = io.BytesIO()
    Image.new(mode, size, colour).save(content, "PNG")
    return client.upload(content.getvalue(), name)


def with_mask(client: Client, graph: workflow.Workflow, name: str, invert: bool = False) -> workflow.Workflow:
    """The graph with the mask of a picture at Encode Reference, as Load Image gives it or inverted."""
    graph = {**graph, "90": {"class_type": "LoadImage", "_meta": {"title": "Mask"}, "inputs": {"image": name}}}
    link: list[Any] = ["90", 1]
    if invert:
        graph["91"] = {"class_type": "InvertMask", "_meta": {"title": "Invert"}, "inputs": {"mask": link}}
        link = ["91", 0]
    return workflow.set_inputs(graph, "ReduxEncode", mask=link)


def with_fit(graph: workflow.Workflow, fit: dict[str, Any]) -> workflow.Workflow:
    """The graph with these settings of the fit, and no others, at Encode Reference."""
    inputs = graph[node_id(graph, "ReduxEncode")]["inputs"]
    for key in [key for key in inputs if key.startswith("fit")]:
        del inputs[key]
    inputs.update(fit)
    return graph


def test_the_mask_of_a_picture_without_alpha_is_no_mask(client: Client, small: Small) -> None:
    """ComfyUI's Load Image gives a black mask of 64 x 64 then, whatever the picture's size."""
    name = upload(client, "opaque.png", (80, 48))
    (plain,) = client.run(small(VARIATION, seed=61)).images
    for invert in (False, True):
        (masked,) = client.run(with_mask(client, small(VARIATION, seed=61), name, invert)).images
        assert picture(client, masked) == picture(client, plain)


def picture(client: Client, image: dict[str, str]) -> bytes:
    return Image.open(io.BytesIO(client.fetch(image))).tobytes()


def test_a_wholly_transparent_picture(client: Client, small: Small) -> None:
    """Load Image takes the alpha away, and gives it as a mask of the picture's size."""
    name = upload(client, "clear.png", (80, 48), mode="RGBA", colour=(9, 9, 9, 0))
    refused(client, with_mask(client, small(VARIATION), name, invert=True), "ReduxEncode", "leaves nothing")


def test_crop_to_mask_without_a_mask(client: Client, small: Small) -> None:
    graph = workflow.set_inputs(small(VARIATION), "ReduxEncode", crop_to_mask=True)
    refused(client, graph, "ReduxEncode", "no mask and no alpha to crop to")


@pytest.mark.parametrize("size", [(1, 1), (300, 3)], ids=str)
def test_a_placeholder_is_a_picture(client: Client, small: Small, size: tuple[int, int]) -> None:
    """Programs send one where their user gives no picture."""
    name = upload(client, f"tiny-{size[0]}-{size[1]}.png", size)
    assert client.run(workflow.set_inputs(small(VARIATION), "LoadImage", image=name)).images


def test_an_empty_batch(client: Client, small: Small) -> None:
    """A batch can be emptied by core's own node that takes a range of it."""
    graph = small(VARIATION)
    encode, image = node_id(graph, "ReduxEncode"), node_id(graph, "LoadImage")
    graph["92"] = {
        "class_type": "EmptyImage",
        "_meta": {"title": "Empty"},
        "inputs": {"width": 64, "height": 64, "batch_size": 0, "color": 0},
    }
    graph[encode]["inputs"]["image"] = ["92", 0]
    rejected(client, graph, "batch_size")  # ComfyUI's nodes do not make one; tests/host hands one in
    graph[encode]["inputs"]["image"] = [image, 0]
    assert client.run(graph).images


@pytest.mark.parametrize(
    ("name", "source"), [("image", "CLIPTextEncode"), ("redux", "LoadImage"), ("mask", "VAELoader")]
)
def test_a_wrong_wire(client: Client, small: Small, name: str, source: str) -> None:
    graph = small(VARIATION)
    source = source if any(node["class_type"] == source for node in graph.values()) else "LoadImage"
    graph[node_id(graph, "ReduxEncode")]["inputs"][name] = [node_id(graph, source), 0]
    rejected(client, graph, "ReduxEncode: Return type mismatch")


def test_a_text_instead_of_a_picture(client: Client, small: Small) -> None:
    graph = small(VARIATION)
    graph[node_id(graph, "ReduxEncode")]["inputs"]["image"] = "cat.jpg"
    with pytest.raises(ClientError) as caught:
        client.run(graph)
    assert caught.value.node_type == "ReduxEncode" and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        ({"fit": "squash"}, "The fit 'squash' is unknown; choose one of stretch"),
        ({"fit": "crop", "fit.position": "middle"}, "position"),
        ({"fit": "tiles", "fit.rows": 2, "fit.columns": 9, "fit.token_budget": 100}, "9"),
        ({"fit": "tiles", "fit.rows": 2, "fit.columns": 2, "fit.token_budget": 1}, "token_budget"),
    ],
    ids=str,
)
def test_a_wrong_fit(client: Client, small: Small, fit: dict[str, Any], words: str) -> None:
    graph = with_fit(small(VARIATION), fit)
    with pytest.raises(ClientError, match=words) as caught:
        client.run(graph)
    assert caught.value.node_type == "ReduxEncode" and "\n" not in str(caught.value)


@pytest.mark.parametrize("fit", [{"fit": "crop"}, {"fit": "tiles"}, {"fit": "tiles", "fit.rows": 1}], ids=str)
def test_settings_of_a_fit_can_be_left_out(client: Client, small: Small, fit: dict[str, Any]) -> None:
    defaults = {"fit.position": "center", "fit.rows": 2, "fit.columns": 2, "fit.token_budget": 1458}
    pixels = []
    for said in (fit, {**defaults, **fit}):
        (image,) = client.run(with_fit(small(VARIATION), said)).images
        pixels.append(Image.open(io.BytesIO(client.fetch(image))).tobytes())
    assert pixels[0] == pixels[1]


def test_an_aspect_ratio_that_is_not_there(client: Client, small: Small) -> None:
    graph = small(VARIATION)
    graph[node_id(graph, "EmptySD3LatentImage")] = {
        "class_type": "ReduxSize",
        "_meta": {"title": "Size"},
        "inputs": {"aspect_ratio": "7:3", "megapixels": 0.02, "batch_size": 1},
    }
    refused(client, graph, "ReduxSize", "The aspect ratio '7:3' is unknown; use 1:1")
    graph = workflow.set_inputs(graph, "ReduxSize", aspect_ratio="1:1", megapixels=float("nan"))
    refused(client, graph, "ReduxSize", "The picture has nan megapixels; a number above 0")


def test_a_fit_that_is_left_out(client: Client, small: Small) -> None:
    graph = small(VARIATION)
    del graph[node_id(graph, "ReduxEncode")]["inputs"]["fit"]
    with pytest.raises(ClientError, match="fit"):
        client.run(graph)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"weights": "1, half"}, "The weights '1, half' cannot be read; write numbers, e.g. 1, 0.5"),
        ({"weights": "1"}, "There are 1 weights for 2 references; one for each is needed"),
        ({"weights": "0 0"}, "not all 0, are needed"),
        ({"weights": "1 -1"}, "numbers from 0 up are needed"),
        ({"method": "average", "weights": ""}, "have no common grid for average; join them instead"),
    ],
    ids=str,
)
def test_a_mix_that_has_no_meaning(client: Client, small: Small, values: dict[str, str], words: str) -> None:
    refused(client, workflow.set_inputs(small(MIX), "ReduxMix", **values), "ReduxMix", words)


def test_one_reference_is_no_mix(client: Client, small: Small) -> None:
    graph = small(MIX)
    del graph[node_id(graph, "ReduxMix")]["inputs"]["tokens.reference_1"]
    with pytest.raises(ClientError, match="reference_1|tokens") as caught:
        client.run(graph)
    assert caught.value.node_type == "ReduxMix"


@pytest.mark.parametrize("prefix", ["../outside", "/etc/outside", "a/../../outside", ""])
@pytest.mark.parametrize("node", ["ReduxSaveTokens", "ReduxSaveConditioning"])
def test_names_out_of_the_folder(client: Client, small: Small, server: Server, prefix: str, node: str) -> None:
    graph = small(VARIATION)
    wire = {"ReduxSaveTokens": ("tokens", "ReduxEncode"), "ReduxSaveConditioning": ("conditioning", "ReduxApply")}[node]
    inputs = {wire[0]: [node_id(graph, wire[1]), 0], "filename_prefix": prefix}
    graph["93"] = {"class_type": node, "_meta": {"title": "Save"}, "inputs": inputs}
    del graph[node_id(graph, "SaveImage")]  # with another output ComfyUI runs that one, and names this one's fault
    refused(client, graph, node, "leads out of the output folder|has no name in it")
    assert not list(server.folder.parent.glob("outside*")) and not list(server.folder.glob("outside*"))


LOADED = {
    "tokens": ({"tokens": torch.zeros(1, 4, 8)}, "is an unknown checkpoint .* a reference saved by Save Reference"),
    "redux": ({"redux_up.weight": torch.zeros(3, 4)}, "is a Redux projector; a reference saved by Save Reference"),
}


@pytest.mark.parametrize("kind", [*LOADED, "cut", "empty"])
def test_files_that_are_no_references(client: Client, small: Small, server: Server, kind: str) -> None:
    folder = server.folder / "output" / "redux"
    folder.mkdir(parents=True, exist_ok=True)
    tensors, words = LOADED.get(kind, LOADED["tokens"])
    save_file(tensors, folder / f"bad-{kind}.safetensors")
    if kind not in LOADED:
        content = (folder / f"bad-{kind}.safetensors").read_bytes()
        (folder / f"bad-{kind}.safetensors").write_bytes(content[:-9] if kind == "cut" else b"")
        words = "is not a safetensors file, or it is truncated"
    graph = small(VARIATION)
    encode = node_id(graph, "ReduxEncode")
    file = f"redux/bad-{kind}.safetensors [output]"
    graph[encode] = {"class_type": "ReduxLoadTokens", "_meta": {"title": "Load"}, "inputs": {"file": file}}
    refused(client, graph, "ReduxLoadTokens", words)


@pytest.mark.parametrize("file", ["../../secret.safetensors [output]", "none.safetensors [input]"])
def test_files_that_are_not_listed(client: Client, small: Small, file: str) -> None:
    graph = small(VARIATION)
    graph[node_id(graph, "ReduxEncode")] = {
        "class_type": "ReduxLoadTokens",
        "_meta": {"title": "Load"},
        "inputs": {"file": file},
    }
    rejected(client, graph, "ReduxLoadTokens: Value not in list")


def test_a_reference_of_another_width(client: Client, small: Small, server: Server) -> None:
    """A file that is right, of a projector for another model: the text has another width."""
    facts = {"version": 1, "encoder": "x", "parts": [{"grids": [[2, 2]], "full_count": 4, "weight": 1.0}]}
    folder = server.folder / "input"
    save_file({"tokens": torch.zeros(1, 4, 64)}, folder / "wide.safetensors", {"redux.tokens": json.dumps(facts)})
    graph = small(VARIATION)
    inputs = {"file": "wide.safetensors [input]"}
    graph[node_id(graph, "ReduxEncode")] = {"class_type": "ReduxLoadTokens", "_meta": {"title": "L"}, "inputs": inputs}
    refused(client, graph, "ReduxApply", "tokens of width 64 and the text of width 128")


def test_after_all_this_a_picture(client: Client, small: Small) -> None:
    assert client.run(small(VARIATION, seed=77)).images
