"""Which heads of a FLUX carry a reference's style, and which its content, measured on that FLUX; presets from it.

A model paints a few contents in a few styles, from text alone. The vision tower looks at these pictures, and of its
channels' means and deviations over the picture an additive model (picture = mean + content + style) tells the
directions in which styles differ and those in which contents do. Where something stands is told by the cosines between
the features of all pairs of positions, which know no channels, and so hardly a style.

Then each of these pictures is the reference of a prompt that names another content, and in each picture painted so a
random half of all heads reads the reference, in the next one the other half. With m = 1 for a head that reads and -1
for one that does not, progress from the text's picture (0) to plain Redux (1) is modelled as

    progress = c + sum over blocks of m a_block + sum over heads of m a_head

by least squares with a penalty, so that what too few pictures can say of a single head is said of its block. Random
halves, since any other head makes up for one that is left out alone. Heads sorted by what they do for what is wanted
less what they do for what is not give candidates, which are painted too: the best of them is the preset.

Shapes: N positions, D channels, F = 2 D statistics, P probes, U heads of all blocks, C contents, S styles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..presets import Table
from ..resample import resample
from ..schedule import ModelName

MEASURES = ("style", "content", "place")
# What each preset is to keep of the reference, and what it is to leave to the text.
AIMS = {
    "style": ("style", "content"),
    "composition": ("place", "style"),
    "subject": ("content", "style"),
}
PLACES = 8  # rows and columns of positions that are compared
KEPT = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8)  # parts of the heads that candidates keep
GAINS = (1.0, 3.0)  # factors of the kept heads; above 1 they make up for the others
PENALTY = 4.0  # of a head's own effect against its block's


@dataclass(frozen=True)
class Look:
    """What the vision tower says of a picture: `statistics` [F], and cosines between positions [PLACES^4]."""

    statistics: Tensor
    structure: Tensor

    @classmethod
    def of(cls, features_ND: Tensor, grid: tuple[int, int]) -> Look:
        """From the tower's features of the positions of a grid."""
        features_ND = features_ND.detach().float().cpu()
        centred_ND = features_ND - features_ND.mean(0)
        if max(grid) > PLACES:
            centred_1Dyx = centred_ND.unflatten(0, grid).permute(2, 0, 1)[None]
            centred_ND = resample(centred_1Dyx, (PLACES, PLACES), "bilinear")[0].flatten(1).T
        unit_ND = normalize(centred_ND, dim=1)
        statistics_F = torch.cat((features_ND.mean(0), features_ND.std(0, correction=0)))
        return cls(statistics_F, (unit_ND @ unit_ND.T).flatten())


@dataclass(frozen=True)
class Axes:
    """Orthonormal directions [F, k] of statistics over `scale` [F]."""

    scale: Tensor
    style: Tensor
    content: Tensor

    @classmethod
    def of(cls, statistics_CSF: Tensor) -> Axes:
        """From contents x styles, at least 2 x 2.

        The statistics are measured in their deviations. Style axes are at right angles to content axes, so that what
        both change counts as content.
        """
        flat_PF = statistics_CSF.flatten(0, 1)
        scale_F = flat_PF.std(0, correction=0).clamp(min=1e-6)
        effects_CSF = (statistics_CSF - flat_PF.mean(0)) / scale_F
        content_FC = _basis(effects_CSF.mean(1))
        styles_SF = effects_CSF.mean(0)
        style_FS = _basis(styles_SF - styles_SF @ content_FC @ content_FC.T)
        return cls(scale_F, style_FS, content_FC)


def _basis(rows_RF: Tensor) -> Tensor:
    """Orthonormal columns that span rows which sum to zero: [F, R - 1]."""
    return torch.linalg.svd(rows_RF, full_matrices=False).Vh[: len(rows_RF) - 1].T


@dataclass(frozen=True)
class Case:
    """A prompt with a reference: indices of contents and styles, and the seed of the noise."""

    content: int
    reference: tuple[int, int]
    seed: int


@dataclass(frozen=True)
class Score:
    """How far a picture has come from the text's to plain Redux's in each of MEASURES, and how far apart those are."""

    progress: dict[str, float]
    weight: dict[str, float]


def score(picture: Look, text: Look, whole: Look, axes: Axes) -> Score:
    """Progress is a projection on the way from the text's picture to plain Redux's; a weight is its length squared."""
    spaces = {
        "style": (axes.style, "statistics", axes.scale),
        "content": (axes.content, "statistics", axes.scale),
        "place": (None, "structure", 1.0),
    }
    progress, weight = {}, {}
    for name, (basis, part, scale) in spaces.items():
        way, come = ((getattr(look, part) - getattr(text, part)) / scale for look in (whole, picture))
        if basis is not None:
            way, come = way @ basis, come @ basis
        weight[name] = float(way @ way)
        progress[name] = float(way @ come) / max(weight[name], 1e-12)
    return Score(progress, weight)


def choose_cases(contents: int, styles: int, count: int) -> list[Case]:
    """Cases that take all references in turn; the prompt names another content than the reference shows."""
    references = list(product(range(contents), range(styles)))
    references = references[:: max(1, len(references) // count)]
    cases = []
    for index in range(count):
        content, style = references[index % len(references)]
        shift = 1 + index // len(references) % max(1, contents - 1)
        cases.append(Case((content + shift) % contents, (content, style), index))
    return cases


def draw_halves(model: ModelName, pairs: int, seed: int = 0) -> Iterator[tuple[Table, Table]]:
    """Random halves of all heads, each with the other half; the same ones whatever their number.

    Each head is drawn by itself, so that halves are not equally large, which tells what heads do together.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(pairs):
        half_U = (torch.rand(count_heads(model), generator=generator) < 0.5).float()
        yield as_table(half_U, model), as_table(1 - half_U, model)


def count_heads(model: ModelName) -> int:
    return (model.double + model.single) * model.heads


def as_table(factors_U: Tensor, model: ModelName) -> Table:
    """Factors of all heads, those of double blocks first, as a preset has them."""
    rows = [[round(value, 4) for value in row] for row in factors_U.reshape(-1, model.heads).tolist()]
    return {"double": rows[: model.double], "single": rows[model.double :]}


def as_factors(table: Table) -> Tensor:
    """The reverse: [U]."""
    return torch.tensor([*table["double"], *table["single"]], dtype=torch.float32).flatten()


def effects_of(halves: Sequence[Table], scores: Sequence[Score], model: ModelName) -> dict[str, Tensor]:
    """What each head adds to the progress in each measure when it reads the reference: [U].

    Args:
        scores: of the picture of each half.
    """
    signs_PU = 2 * torch.stack([as_factors(half) for half in halves]) - 1
    blocks_PB = signs_PU.unflatten(1, (-1, model.heads)).mean(2)
    design_PX = torch.cat((torch.ones(len(signs_PU), 1), blocks_PB * model.heads**0.5, signs_PU), 1).double()
    found = {}
    for name in MEASURES:
        weight_P = torch.tensor([score.weight[name] for score in scores]).double()
        weight_P = (weight_P / weight_P.mean().clamp(min=1e-12)).sqrt()
        progress_P = torch.tensor([score.progress[name] for score in scores]).double()
        left_PX, right_P = design_PX * weight_P[:, None], progress_P * weight_P
        penalty_X = torch.full((design_PX.shape[1],), PENALTY).double()
        penalty_X[0] = 1e-6
        solved_X = torch.linalg.solve(left_PX.T @ left_PX + penalty_X.diag(), left_PX.T @ right_P)
        _, blocks_B, heads_U = solved_X.split([1, blocks_PB.shape[1], signs_PU.shape[1]])
        share_U = (blocks_B / model.heads**0.5).repeat_interleave(model.heads)
        found[name] = (2 * (share_U + heads_U)).float()  # from -1 to 1, so twice
    return found


def candidates(effects: Mapping[str, Tensor], preset: str, model: ModelName) -> Iterator[Table]:
    """Head weights that may serve a preset, for the painting to choose from."""
    wanted, unwanted = (effects[name] / effects[name].abs().sum().clamp(min=1e-9) for name in AIMS[preset])
    order_U = (wanted - unwanted).argsort(descending=True)
    for part, gain in product(KEPT, GAINS):
        factors_U = torch.zeros(len(order_U))
        factors_U[order_U[: max(1, round(part * len(order_U)))]] = gain
        yield as_table(factors_U, model)


def worth(scores: Sequence[Score], preset: str) -> float:
    """What is kept of the wanted less what is kept of the unwanted; nothing and everything are both worth 0."""
    wanted, unwanted = (mean_progress(scores, name) for name in AIMS[preset])
    return min(wanted, 1.0) - max(unwanted, 0.0)


def mean_progress(scores: Sequence[Score], name: str) -> float:
    total = sum(score.weight[name] for score in scores)
    return sum(score.progress[name] * score.weight[name] for score in scores) / max(total, 1e-12)
