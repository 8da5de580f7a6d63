"""How strong a reference is: over the steps of a sampling, and over the blocks of FLUX."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

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
            raise ValueError(f"There is no curve '{self.curve}'; choose one of {', '.join(CURVES)}.")

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
RULE = re.compile(r"(double|single)\s*:\s*(?:(\d+)(?:\s*-\s*(\d+))?)?\s*=\s*(\d+(?:\.\d*)?|\.\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class BlockWeights:
    """Factors of a reference's strength in single blocks of FLUX; blocks that no rule names keep 1.

    Rules are (kind, first block, last block, factor); a later rule wins.
    """

    rules: tuple[tuple[str, int, int, float], ...] = ()

    @classmethod
    def parse(cls, text: str) -> BlockWeights:
        """Read rules such as "double:0-9=0.5, single:=0.8, single:37=0", separated by commas, semicolons or lines.

        Raises:
            ValueError: names the rule that cannot be read, or the block that FLUX.1 does not have.
        """
        parts = [part.strip() for part in re.split(r"[,;\n]", text) if part.strip()]
        return cls(tuple(cls._rule(part) for part in parts))

    @staticmethod
    def _rule(text: str) -> tuple[str, int, int, float]:
        match = RULE.fullmatch(text)
        if match is None:
            raise ValueError(
                f"The block rule '{text}' cannot be read; write e.g. double:0-9=0.5, single:37=0 or single:=0.8."
            )
        kind, first, last, factor = match[1].lower(), *match.groups()[1:]
        top = BLOCK_COUNTS[kind] - 1
        start = 0 if first is None else int(first)
        stop = top if first is None else int(last or first)
        if not start <= stop <= top:
            raise ValueError(f"The block rule '{text}' names blocks that FLUX.1 does not have; {kind}: 0-{top} exist.")
        return kind, start, stop, float(factor)

    def factor(self, kind: str, index: int) -> float:
        """The factor of the block `index` of a kind, "double" or "single"."""
        for rule_kind, first, last, factor in reversed(self.rules):
            if kind == rule_kind and first <= index <= last:
                return factor
        return 1.0
