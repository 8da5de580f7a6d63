"""The influence of a sampling while it runs: a sentence and a picture on the node that samples."""

from __future__ import annotations

import time
from collections.abc import Callable

import comfy.utils
from comfy.cli_args import LatentPreviewMethod, args
from comfy_execution.progress import get_progress_state

from ...redux.heatmap import draw_glance, percent
from ...redux.influence import Influence
from .prompt_graph import map_of
from .report import note_of, show_on_node

EVERY = 0.5  # seconds: reading numbers waits for the GPU
REST = 50  # times as long as the last look took: at most 1/50 of a sampling goes into looking


class LiveInfluence:
    """Looks at what has been recorded once in a while.

    The picture takes the place in which ComfyUI shows the picture that is being made. Where ComfyUI's own previews are
    on, they keep it, and the map stands on the Redux Influence Map that belongs to the sampling.

    Args:
        node: that samples; "" if it is not known, and nothing is shown.
    """

    def __init__(self, node: str = "") -> None:
        self.node = node
        self._due = 0.0
        self._shown = False

    def look(self, read: Callable[[], Influence | None]) -> None:
        """Show what `read` gives, if it is time."""
        if not self.node or time.monotonic() < self._due or (found := read()) is None:
            return
        begin = time.monotonic()  # what was waited for in `read` is the sampling itself
        shares = found.maps_BSyx.mean(dim=(0, 2, 3)).tolist()
        pairs = [f"{name} has {percent(share)}" for name, share in zip(found.names, shares, strict=True)]
        told = [pair for pair in pairs if not pair.startswith(("text", "image"))]
        if told:  # not where all Kontext pictures are left out
            show_on_node(", ".join(told), self.node)
            self._shown = True
            self._draw(found)
        end = time.monotonic()
        self._due = end + max(EVERY, REST * (end - begin))

    def end(self) -> None:
        if self._shown:
            show_on_node(note_of(self.node), self.node)

    def _draw(self, influence: Influence) -> None:
        if comfy.utils.PROGRESS_BAR_HOOK is None:  # a script that calls nodes
            return
        place = self.node if args.preview_method == LatentPreviewMethod.NoPreviews else map_of(self.node)
        if place is None:
            return
        progress = get_progress_state().nodes.get(self.node)
        value, total = (progress["value"], progress["max"]) if progress else (0, 1)
        picture = ("JPEG", draw_glance(influence.maps_BSyx.mean(0), influence.names), None)
        comfy.utils.ProgressBar(total, node_id=place).update_absolute(value, preview=picture)
