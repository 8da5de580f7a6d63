"""Where the nodes of a template stand, and which way its wires go. All numbers are pixels of the canvas at 100 %."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .template_plan import Plan

GAP, ROW_GAP, TITLE, GROUP_TITLE, MARGIN, LANE = 44, 26, 30, 32, 10, 12
APART = 7  # wires that share a gap
FAR = 250  # from here on a wire between neighbouring columns keeps to the gap between them
COLLAPSED = 225  # as wide as Nodes 2.0 draws a collapsed node
NOTE = "note"
SLIDERS = ("ReduxApply", "ReduxSweep", "ReduxWeighLatents")
WIDEST = 1755  # of a template that opens at 60 % in a window of 1440 x 800
WIDEST_COLUMN = 360

Sizes = dict[str, list[float]]


def place(plan: Plan, sizes: Sizes) -> Sizes:
    """Positions by key, and of the note under "note".

    In the first two columns, where references stand beside their encoders, a band begins below the one before it; in
    the others nodes stand one below the other.
    """
    positions: Sizes = {}
    below, ends = 0.0, [0.0] * len(plan.columns)
    for band in sorted({node.band for node in plan.nodes.values()}):
        for key, node in plan.nodes.items():
            if node.band == band:
                top = max(ends[node.column], below if node.column < 2 else 0)
                positions[key] = [left_of(plan, node.column), top]
                ends[node.column] = top + sizes[key][1] + TITLE + ROW_GAP
        below = max(ends[:2]) + GROUP_TITLE - ROW_GAP / 2 if band == 0 else max(ends[:2])
    first, span = plan.note
    positions[NOTE] = [left_of(plan, first), max(ends[first : first + span])]
    return positions


def widened(plan: Plan) -> tuple[int, ...]:
    """The columns, of which those with sliders share what room is left: in Nodes 2.0 a slider has what the rest of its
    node leaves, and moved by a tenth for each pixel."""
    wide = {node.column for node in plan.nodes.values() if node.kind in SLIDERS}
    spare = WIDEST - sum(plan.columns) - GAP * (len(plan.columns) - 1)
    more = spare // max(len(wide), 1)
    return tuple(
        min(width + more, WIDEST_COLUMN) if column in wide else width for column, width in enumerate(plan.columns)
    )


def left_of(plan: Plan, column: int) -> float:
    return sum(plan.columns[:column]) + GAP * column


def bounds(keys: list[str], positions: Sizes, sizes: Sizes) -> list[float]:
    """Left, top, width and height of the group around nodes, whose titles stand 30 above their positions."""
    left = min(positions[key][0] for key in keys) - MARGIN
    top = min(positions[key][1] for key in keys) - TITLE - GROUP_TITLE
    right = max(positions[key][0] + sizes[key][0] for key in keys) + MARGIN
    bottom = max(positions[key][1] + sizes[key][1] for key in keys) + MARGIN
    return [left, top, right - left, bottom - top]


@dataclass
class Passages:
    """The heights at which a wire may cross a column: above all nodes, between two of them, and below the last.

    Args:
        sizes: of the nodes and of the note.
    """

    plan: Plan
    positions: Sizes
    sizes: Sizes
    used: dict[tuple[int, float], list[tuple[str, int]]] = field(default_factory=dict)

    def nearest(self, column: int, heights: tuple[float, float], wire: tuple[str, int]) -> float:
        """The passage nearest to two heights, with a place in it for this output's wires."""
        passages = self._between(column)
        gap = min(passages, key=lambda top: sum(abs(top - height) for height in heights))
        above = gap == passages[0]
        wires = self.used.setdefault((-1, gap) if above else (column, gap), [])  # one row above all columns
        if wire not in wires:
            wires.append(wire)
        place = wires.index(wire)
        return gap - LANE * place if above else gap + APART * (place - 1)

    def _between(self, column: int) -> list[float]:
        first, span = self.plan.note
        keys = [key for key, node in self.plan.nodes.items() if node.column == column]
        keys += [NOTE] if first <= column < first + span else []
        keys.sort(key=lambda key: self.positions[key][1])
        ends = [self.positions[key][1] + self.sizes[key][1] for key in keys]
        return [-TITLE - GROUP_TITLE - LANE, *(end + ROW_GAP / 2 for end in ends)]


def routes(plan: Plan, positions: Sizes, sizes: Sizes) -> list[dict[str, Any]]:
    """The way of each wire that would pass behind a node: points (x, y), where y may be "source" or "target".

    A wire that skips columns crosses them where no node is, one to a node above or below goes around its own, and a
    long one between neighbours keeps to the gap between them.
    """
    numbers, found, passages = plan.numbers(), [], Passages(plan, positions, sizes)
    upright: dict[tuple[str, int], int] = {}  # a place of its own for each output's upright part
    for key, node in plan.nodes.items():
        for name, value in node.inputs.items():
            if not isinstance(value, tuple):
                continue
            source = value[0]
            start, end = plan.nodes[source].column, node.column
            lane = 6 * (upright.get(value, len(upright)) % 6)
            right = [left_of(plan, column) + plan.columns[column] + 8 + lane for column in range(len(plan.columns))]
            left = left_of(plan, end) - 8 - lane
            distance = positions[key][1] - positions[source][1]
            if end - start > 1:
                height, stops = positions[source][1], [[right[start], "source"]]
                for column in range(start + 1, end):
                    height = passages.nearest(column, (height, positions[key][1]), value)
                    stops += [[right[column - 1], height], [right[column] if column + 1 < end else left, height]]
                stops.append([left, "target"])
            elif end == start:
                upper = key if distance < 0 else source
                between = positions[upper][1] + sizes[upper][1] + ROW_GAP / 2
                edge = right[start]
                if plan.nodes[source].collapsed:
                    edge -= max(0, plan.columns[start] - COLLAPSED)
                stops = [[edge, "source"], [edge, between], [left, between], [left, "target"]]
            elif abs(distance) > FAR:
                stops = [[right[start], "source"], [right[start], "target"]]
            else:
                continue
            upright.setdefault(value, len(upright))
            found.append(
                {"source": numbers[source], "slot": value[1], "target": numbers[key], "input": name, "stops": stops}
            )
    return found
