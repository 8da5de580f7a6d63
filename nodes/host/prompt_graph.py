"""What the graph that is being run contains."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from comfy_execution.utils import get_executing_context

INFLUENCE = "ReduxInfluence"
EMPTY = ("EmptyLatentImage", "EmptySD3LatentImage", "ReduxSize")  # whose latents are whole batches
TEXT_ONLY = "conditioning_from"  # input of ComfyUI's nodes (Average, Concat) that read the text of a conditioning alone
WIRES = ("conditioning", "positive", "negative", "cond")  # how inputs that pass a conditioning on begin

Prompt = dict[str, dict[str, Any]]


def influence_wanted() -> bool:
    """Whether a graph that runs now draws an influence map, so that sampling has to record.

    Read from the server's queue, because neither the cache key of a node nor its inputs know what is connected behind
    it. Without a server (a script that calls the nodes) there is no queue, and nothing is recorded.
    """
    return any(node.get("class_type") == INFLUENCE for prompt in _running() for node in prompt.values())


def executing_node() -> str:
    """The id of the node that is executed; "" in a script that calls nodes."""
    context = get_executing_context()
    return context.node_id if context else ""


def given_in_prompt(name: str) -> Any:
    """What the prompt gives to an input of the executed node; None where that is not known.

    Of a dynamic combo ComfyUI hands over what is in its list, and otherwise nothing, so that an error could not say
    what was found.
    """
    found = (prompt.get(executing_node(), {}).get("inputs", {}).get(name) for prompt in _running())
    return next((value for value in found if value is not None), None)


def nodes_behind(name: str) -> list[str]:
    """Ids of the nodes from which the executed node's input comes, the nearest first."""
    return [node for prompt in _running() for node in _behind(prompt, executing_node(), name)]


def map_of(sampler: str) -> str | None:
    """The id of the influence map whose pictures come from this node most directly."""
    found = [
        (sources.index(sampler), node)
        for prompt in _running()
        for node, about in prompt.items()
        if about.get("class_type") == INFLUENCE and sampler in (sources := _behind(prompt, node, "images"))
    ]
    return min(found)[1] if found else None


def empty_images() -> list[int]:
    """How many images each of the empty latents has that are wired straight to the executed node, where it is known."""
    return [
        images
        for prompt in _running()
        for link in prompt.get(executing_node(), {}).get("inputs", {}).values()
        if isinstance(link, list) and link and (about := prompt.get(link[0], {})).get("class_type") in EMPTY
        if isinstance(images := about.get("inputs", {}).get("batch_size", 1), int)
    ]


def _behind(prompt: Prompt, node: str, name: str) -> list[str]:
    """Ids of the nodes from which a node's input comes, the nearest first."""
    found: list[str] = []
    links = [prompt.get(node, {}).get("inputs", {}).get(name)]
    for link in links:  # which grows
        if isinstance(link, list) and link and link[0] in prompt and link[0] not in found:
            found.append(link[0])
            links += prompt[link[0]].get("inputs", {}).values()
    return found


def text_only_readers() -> list[str]:
    """Kinds of nodes behind the one that is executed which will read the text of its conditioning, and no more."""
    context = get_executing_context()
    if context is None:
        return []
    return sorted(
        {
            node.get("class_type", "")
            for prompt in _running()
            if context.node_id in prompt
            for node in prompt.values()
            if _leads_to(prompt, node.get("inputs", {}).get(TEXT_ONLY), context.node_id, set())
        }
    )


def _leads_to(prompt: Prompt, link: Any, node_id: str, seen: set[str]) -> bool:
    """Whether a conditioning on this wire has come through the node, unless one of those readers stands between."""
    if not isinstance(link, list) or not link or link[0] in seen or link[0] not in prompt:
        return False
    if link[0] == node_id:
        return True
    seen.add(link[0])
    inputs = prompt[link[0]].get("inputs", {})
    wires = [value for name, value in inputs.items() if name.startswith(WIRES) and name != TEXT_ONLY]
    return any(_leads_to(prompt, wire, node_id, seen) for wire in wires)


def _running() -> Iterator[Prompt]:
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    queue = getattr(getattr(server, "instance", None), "prompt_queue", None)
    return (item[2] for item in (list(queue.currently_running.values()) if queue else []))
