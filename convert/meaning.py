"""What the settings of an old node mean for ours.

The facts behind this, with figures, are in docs/coming-from.md.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .graph import WIRED, short
from .specs import STRONGEST

# Which strength `multiply` by a factor comes nearest to: pictures of the miniature beside those at 15 strengths, the
# smallest mean difference of pixels (docs/coming-from.md, with the command). But at 1 the pictures stay different, and
# below the first factor none is near, so that a faint reference is set for the user to turn up.
NEAREST = ((0.2, 0.2), (0.3, 0.2), (0.4, 0.3), (0.5, 0.3), (0.7, 0.8), (0.85, 0.95), (1.0, 1.0))
FAINT = 0.05
LONGEST = 200  # of settings that a note repeats
SIMPLE = {"highest": 1, "high": 2, "medium": 3, "low": 4, "lowest": 5}
FITS: dict[str, dict[str, Any]] = {
    "center crop (square)": {"fit": "crop", "fit.position": "center"},
    "keep aspect ratio": {"fit": "pad"},
    "autocrop with mask": {"fit": "pad", "crop_to_mask": True},
}
SIDES = {"redux-mini": 8, "patch16": 32, "512": 32}  # tokens a side of a tower, by its file's name; 27 for all others


@dataclass(frozen=True)
class Meaning:
    """strength: None = the wire of the old node's strength stays. pool: tokens a side, None = all. encode: for Encode
    Reference. notes: what differs, one sentence each. refused: why the node must stay as it is."""

    strength: float | None = 1.0
    normalize: bool = True
    pool: int | None = None
    encode: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refused: str = ""

    @property
    def apply(self) -> dict[str, Any]:
        values: dict[str, Any] = {"normalize": self.normalize}
        return values if self.strength is None else {**values, "strength": self.strength}


def read_apply(kind: str, values: Mapping[str, Any], vision: str) -> Meaning:
    """Args:
    values: of the old node's widgets; WIRED where a value is not known.
    vision: the vision tower's file name, "" when unknown.
    """
    unknown = [name for name, value in values.items() if value is WIRED and name != "strength"]
    if unknown:
        return Meaning(refused=f"{unknown[0]} comes by wire, so what it means is not known before the graph runs")
    try:
        return READERS[kind](values, vision)
    except (TypeError, ValueError, KeyError, ArithmeticError):
        return Meaning(refused=f"its settings {short(str(dict(values)), LONGEST)} cannot be read")


def read_crop(crop: Any) -> dict[str, Any]:
    """CLIP Vision Encode's crop for Encode Reference."""
    return {"fit": "stretch"} if crop == "none" else {"fit": "crop", "fit.position": "center"}


def nearest(factor: float) -> float:
    """The strength whose pictures are nearest to those of tokens multiplied by `factor`, between the measured ones
    on a line of logarithms; `FAINT` below them."""
    if factor == 0:
        return 0.0
    factors, strengths = zip(*NEAREST, strict=True)
    if factor >= factors[-1]:
        return float(strengths[-1])
    if factor < factors[0]:
        return FAINT
    right = bisect.bisect_right(factors, factor)
    share = math.log(factor / factors[right - 1]) / math.log(factors[right] / factors[right - 1])
    return round(math.exp((1 - share) * math.log(strengths[right - 1]) + share * math.log(strengths[right])), 3)


def _multiply(value: Any, what: str) -> Meaning:
    if value is WIRED:
        return Meaning(None, notes=(f"{what} by a wired number became the strength; at other numbers than 1 the "
                                    "pictures differ",))  # fmt: skip
    factor = _number(value)
    if factor == 1:
        return Meaning()
    if factor < 0:
        return Meaning(refused=f"{what} by {factor:g} has no equal, since a strength is never negative")
    near = nearest(factor)
    far = "is set, a faint reference, since none is near; turn it by eye"
    said = "is nearest" if factor >= NEAREST[0][0] or factor == 0 else far
    return Meaning(near, notes=(f"{what} by {factor:g} has no equal; strength {near:g} {said}",))


def _core(values: Mapping[str, Any], vision: str) -> Meaning:
    if values["strength_type"] == "attn_bias":
        if values["strength"] is WIRED:
            return Meaning(None)
        strength = _number(values["strength"])
        if strength < 0:
            return Meaning(refused=f"attn_bias {strength:g} has no equal, since a strength is never negative")
        far = f"attn_bias {strength:g} is more than Apply Redux takes; strength {STRONGEST:g} is set"
        return Meaning(min(strength, STRONGEST), notes=(far,) if strength > STRONGEST else ())
    if values["strength_type"] != "multiply":
        return Meaning(refused=f"its strength_type {short(repr(values['strength_type']), LONGEST)} is not known")
    return _multiply(values["strength"], "multiply")


def _kjnodes(values: Mapping[str, Any], vision: str) -> Meaning:
    return _multiply(values["strength"], "multiplying the tokens")


def _simple(values: Mapping[str, Any], vision: str) -> Meaning:
    level = values["image_strength"]
    side = tower_side(vision) // SIMPLE[level]
    notes = () if level in ("highest", "medium") else (f"{level} resized the tokens by bicubic, Pool Reference "
                                                       "averages by area",)  # fmt: skip
    return Meaning(normalize=level == "highest", pool=None if level == "highest" else side, notes=notes)


def _advanced(values: Mapping[str, Any], vision: str) -> Meaning:
    full, factor = tower_side(vision), _number(values["downsampling_factor"])
    how, mode, side = values["downsampling_function"], values["mode"], round(full / factor)
    if side < 1:  # a factor by wire may be any number
        raise ValueError(f"{factor:g} leaves no tokens")
    base = _multiply(_number(values["weight"]) ** 2, "weight, which multiplies the tokens by its square,")
    notes = list(base.notes)
    if side < full and how != "area":
        notes.append(f"{how} resized the tokens, Pool Reference averages by area")
    elif side < full and full % side:
        notes.append(f"{full} does not divide by {side}, and Pool Reference counts the shares of tokens at the borders")
    encode = dict(FITS[mode])
    if mode == "autocrop with mask":
        encode["margin"] = _number(values["autocrop_margin"])
        notes.append("the margin was a share of the picture and is now a share of what the mask shows")
    if mode != "center crop (square)":
        notes.append("borders of the square are left out exactly instead of black")
    pool = side if side < full else None
    return replace(base, normalize=False, pool=pool, encode=encode, notes=tuple(notes))


READERS = {
    "StyleModelApply": _core,
    "StyleModelApplyAdvanced": _kjnodes,
    "StyleModelApplySimple": _simple,
    "ReduxAdvanced": _advanced,
}


def _number(value: Any) -> float:
    """Raises ValueError or TypeError: no finite number."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def tower_side(vision: str) -> int:
    """Tokens a side of the vision tower of that file: 27 for 384 pixels, 32 for 512."""
    return next((side for part, side in SIDES.items() if part in vision), 27)
