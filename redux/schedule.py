"""How strong a reference is: over the steps of a sampling, and over the blocks and heads of FLUX."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from .typed import short

# Samplers compute their noise levels in fp32 and boundaries in fp64, so that shares come out up to 1e-6 apart.
SAME_MOMENT = 2e-6

CURVES: dict[str, Callable[[float], float]] = {
    # From the start (0) to the end (1) of a reference's time to a factor of its strength.
    "constant": lambda u: 1.0,
    "linear up": lambda u: u,
    "linear down": lambda u: 1.0 - u,
    "ease in": lambda u: u * u,
    "ease out": lambda u: 1.0 - u * u,
    "ease in-out": lambda u: u * u * (3.0 - 2.0 * u),
}


@dataclass(frozen=True)
class Schedule:
    """When a reference acts, as shares of the denoising: 0 is pure noise, 1 the finished picture.

    The reference acts from `start` on and before `end` (with `end` 1, to the last step), so that two references that
    follow each other never act in one step together.

    Raises:
        ValueError: a share outside 0..1, an end that is not after the start, or an unknown curve.
    """

    start: float = 0.0
    end: float = 1.0
    curve: str = "constant"

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < self.end <= 1.0:
            raise ValueError(
                f"The reference acts from {self.start:g} to {self.end:g}; 0 <= start < end <= 1 is needed."
            )
        if self.curve not in CURVES:
            raise ValueError(f"There is no curve '{short(self.curve)}'; choose one of {', '.join(CURVES)}.")

    @property
    def is_constant(self) -> bool:
        return (self.start, self.end, self.curve) == (0.0, 1.0, "constant")

    def factor(self, percent: float) -> float:
        """The factor of the strength at a moment; 0 outside the reference's time.

        A moment within SAME_MOMENT of the start or the end is the start or the end.
        """
        if percent < self.start - SAME_MOMENT or (percent > self.end - SAME_MOMENT and self.end < 1.0):
            return 0.0
        percent = self.start if percent < self.start + SAME_MOMENT else min(percent, 1.0)
        return CURVES[self.curve]((percent - self.start) / (self.end - self.start))


def percent_of_sigma(sigma: float, percent_to_sigma: Callable[[float], float]) -> float:
    """Invert a sampler's falling function from share to noise level, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if float(percent_to_sigma(middle)) > sigma:
            low = middle
        else:
            high = middle
    return high


BLOCK_COUNTS = {"double": 19, "single": 38}
HEAD_COUNT = 24
NUMBERS = r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?"  # of more digits Python may refuse to make a number
RULE = re.compile(
    rf"(double|single)\s*:\s*(?:{NUMBERS})?\s*(?:\.\s*h\s*{NUMBERS})?\s*=\s*"
    r"([-+]?(?:\d+(?:\.\d*)?|\.\d+|nan|inf))",
    re.IGNORECASE,
)
Rule = tuple[str, int, int, float] | tuple[str, int, int, float, int, int]


@dataclass(frozen=True)
class ModelName:
    """One model among those of its kind.

    Attributes:
        name: for people.
        digest: of its weights, see `redux.model.fingerprint`; "" = unknown.
        double, single: its numbers of blocks.
        heads: in each of them.
    """

    name: str
    digest: str
    double: int
    single: int
    heads: int


@dataclass(frozen=True)
class BlockWeights:
    """Factors of a reference's strength in single blocks and heads of FLUX; those that no rule names keep 1.

    Attributes:
        rules: (kind, first block, last block, factor), or the same with (first head, last head) behind it; a later
            rule wins.
        made_for: the one model that they mean something for; None = any.
    """

    rules: tuple[Rule, ...] = ()
    made_for: ModelName | None = None

    @classmethod
    def parse(cls, text: str) -> BlockWeights:
        """Read rules such as "double:0-9=0.5, single:=0.8, double:3.h0-5=0", separated by commas, semicolons or lines.

        Raises:
            ValueError: names the rule that cannot be read, or the block or head that FLUX.1 does not have.
        """
        parts = [part.strip() for part in re.split(r"[,;\n]", text) if part.strip()]
        return cls(tuple(cls._rule(part) for part in parts))

    @staticmethod
    def _rule(text: str) -> Rule:
        match = RULE.fullmatch(text)
        if match is None:
            raise ValueError(
                f"The block rule '{short(text)}' cannot be read; write e.g. double:0-9=0.5, single:37=0, single:=0.8, "
                "or double:3.h0-5=0 for heads."
            )
        kind, factor = match[1].lower(), float(match[6])
        if not 0 <= factor < math.inf:
            raise ValueError(f"The block rule '{short(text)}' has the factor {factor:g}; a number from 0 up is needed.")
        blocks = _span(text, match[2], match[3], BLOCK_COUNTS[kind], "blocks", f"{kind}: ")
        heads = () if match[4] is None else _span(text, match[4], match[5], HEAD_COUNT, "heads", "h")
        return kind, *blocks, factor, *heads

    def factor(self, kind: str, index: int, heads: int = HEAD_COUNT) -> float | tuple[float, ...]:
        """The factor of the block `index` of a kind, "double" or "single"; one for each head where they differ."""
        found = [1.0] * heads
        for factor, *span in self._by_block.get((kind, index), ()):
            start, stop = (int(span[0]), int(span[1]) + 1) if span else (0, heads)
            found[start:stop] = [factor] * len(found[start:stop])
        return found[0] if len(set(found)) == 1 else tuple(found)

    @cached_property
    def _by_block(self) -> dict[tuple[str, int], list[tuple[float, ...]]]:
        """Factor and span of each rule for a block: a preset has a thousand, and every model call asks."""
        found: dict[tuple[str, int], list[tuple[float, ...]]] = {}
        for kind, first, last, *rest in self.rules:
            for index in range(first, last + 1):
                found.setdefault((kind, index), []).append(tuple(rest))
        return found


def _span(rule: str, first: str | None, last: str | None, count: int, what: str, prefix: str) -> tuple[int, int]:
    """Numbers of a rule: one, from one to another, or all."""
    if first is None:
        return 0, count - 1
    start, stop = int(first), int(last or first)
    if start > stop:
        raise ValueError(
            f"The block rule '{short(rule)}' counts down from {start} to {stop}; the lower number comes first."
        )
    if stop >= count:
        raise ValueError(
            f"The block rule '{short(rule)}' names {what} that FLUX.1 does not have; {prefix}0-{count - 1} exist."
        )
    return start, stop
