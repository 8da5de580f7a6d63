"""Training batches: latents, the words that describe them, and reference pictures that go with them.

What the miniature learns is decided here:

- a reference shows the same object at nearly the same place; so the picture keeps its composition;
- what no word names follows the reference; what a word names differs from the reference's, so the word must be read;
- a prompt has any number of words (all rows of a batch the same number), or only the empty word;
- with two references, or with a region, attention from image tokens outside a reference's region to its tokens is
  closed in a part of the batches: that is how a region acts at sampling time.

Shapes: N rows, K objects, R references, T words, A attributes, G = 64 image tokens, L = all tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .scenes import Emoji, Scenes, make_scenes, random_patterns
from .vocabulary import COLOURS, Vocabulary

GRID = 8
REFERENCE_TOKENS = 64
NEVER = -1e4
Encode = Callable[[Tensor], Tensor]

# Share of the steps, and how likely a word is chosen for each attribute (the bias of a Gumbel draw).
# one object:  object, group, style, colour, pattern, place, size
# two objects: object 1, object 2, style, colour, pattern, arrangement
SHARES = {
    "text": 0.48,
    "text two": 0.05,
    "one": 0.30,
    "one region": 0.04,
    "one of two": 0.04,
    "two": 0.045,
    "two region": 0.045,
}
WANTED = {
    "text": (3.0, -1.0, 1.2, 0.7, 0.0, 0.0, -1.0),
    "text two": (3.0, 3.0, 0.5, 0.5, 0.0, 0.5),
    "one": (-0.7, -1.0, 1.7, 1.0, 0.2, 0.0, -1.0),
    "one region": (-1.0, NEVER, 0.7, 0.7, 0.0, NEVER, NEVER),
    "one of two": (NEVER, 9.0, 0.0, 0.5, 0.0, NEVER),  # the text names what stands outside the region
    "two": (-1.0, -1.0, 0.7, 0.7, 0.0, 0.7),
    "two region": (-1.0, -1.0, 0.7, 0.7, 0.0, 0.0),
}
ONE_OBJECT = ("text", "one", "one region")
CLOSED = ("one region", "one of two", "two region")
STYLE, COLOUR, PATTERN, PLACE, SIZE = 2, 3, 4, 5, 6  # attributes, counted as in `WANTED`
WORD_COUNTS = {"text": (1, 2, 3, 3, 4, 5), "text two": (2, 3, 4, 5), "one": (1, 2, 2, 3)}  # otherwise (1, 1, 2, 3)
NO_WORDS = {"text": 0.1, "text two": 0.1, "one": 0.2, "one of two": 0.0}  # rows with the empty prompt; otherwise 0.3


@dataclass
class Batch:
    """latents [N, 16, 16, 16]; words [N, T]; references [N, R, 3, 128, 128] in 0..1 or None; mask bool [N, 1, L, L]."""

    latents: Tensor
    words: Tensor
    references: Tensor | None
    mask: Tensor | None


class Pool:
    """Encoded scenes on the device, replaced little by little, since encoding costs as much as training."""

    def __init__(self, emoji: Emoji, encode: Encode, kinds: int, size: int, chunk: int) -> None:
        self.emoji, self.encode, self.kinds, self.chunk = emoji, encode, kinds, chunk
        self.start = 0
        made = [self._make() for _ in range(-(-size // chunk))]
        self.latents = torch.cat([latents for latents, _ in made])
        first = made[0][1]
        names = vars(first)
        self.scenes = Scenes(**{name: torch.cat([getattr(scenes, name) for _, scenes in made]) for name in names})

    def _make(self) -> tuple[Tensor, Scenes]:
        train = self.emoji.train
        objects = train[torch.randint(len(train), (self.chunk, self.kinds), device=train.device)]
        scenes = make_scenes(objects)
        mixed = make_scenes(objects, one_style=False).styles
        alike = torch.rand(self.chunk, 1, device=train.device) < 0.6
        scenes.styles = torch.where(alike, scenes.styles, mixed)
        return self.encode(self.emoji.draw(scenes)).half(), scenes

    def refresh(self) -> None:
        latents, scenes = self._make()
        rows = slice(self.start, self.start + self.chunk)
        self.latents[rows] = latents
        for name, value in vars(scenes).items():
            getattr(self.scenes, name)[rows] = value
        self.start = (self.start + self.chunk) % len(self.latents)

    def sample(self, count: int) -> tuple[Tensor, Scenes]:
        rows = torch.randint(len(self.latents), (count,), device=self.latents.device)
        return self.latents[rows].float(), self.scenes.map(lambda value: value[rows])


class Batches:
    """Draws batches of a kind from the pools."""

    def __init__(self, emoji: Emoji, vocabulary: Vocabulary, encode: Encode, pool: int, chunk: int) -> None:
        self.emoji = emoji
        self.device = emoji.device
        self.pools = [Pool(emoji, encode, 1, pool, chunk), Pool(emoji, encode, 2, pool // 2, chunk)]
        rows = vars(vocabulary)
        self.rows = {key: torch.tensor(rows[key], device=self.device) for key in rows if key != "words"}

    def draw(self, kind: str, count: int) -> Batch:
        """A batch of `count` rows of one of the kinds in `SHARES`."""
        pool = self.pools[0 if kind in ONE_OBJECT else 1]
        pool.refresh()
        latents, scenes = pool.sample(count)
        words, named = self.describe(scenes, kind)
        if kind.startswith("text"):
            return Batch(latents, words, None, None)
        pictures = self.refer(scenes, named, kind)
        references = torch.stack([self.emoji.draw(picture) for picture in pictures], 1)
        mask = self.close(scenes, words.shape[1], len(pictures)) if kind in CLOSED else None
        return Batch(latents, words, references, mask)

    def describe(self, scenes: Scenes, kind: str) -> tuple[Tensor, Tensor]:
        """Words [N, T], and which attributes they name, bool [N, A] (in the order of `WANTED`)."""
        rows = self._attribute_rows(scenes)
        wanted = torch.tensor(WANTED[kind], device=self.device)
        scores = wanted - torch.empty(rows.shape, device=self.device).exponential_().log()
        scores = torch.where(rows < 0, NEVER, scores)
        counts = WORD_COUNTS.get(kind, (1, 1, 2, 3))
        chosen = scores.topk(counts[int(torch.randint(len(counts), ()))], 1).indices
        named = torch.zeros(rows.shape, dtype=torch.bool, device=self.device).scatter_(1, chosen, True)
        empty = torch.rand(len(rows), 1, device=self.device) < NO_WORDS.get(kind, 0.3)
        words = torch.where(empty, 0, rows.gather(1, chosen))
        return words, named & ~empty & (rows >= 0)

    def _attribute_rows(self, scenes: Scenes) -> Tensor:
        """Row of the word for each attribute [N, A]; -1 where there is none."""
        r, style = self.rows, scenes.styles[:, 0]
        common = [r["colours"][scenes.colours], r["patterns"][scenes.patterns]]
        if scenes.objects.shape[1] == 1:
            item = scenes.objects[:, 0]
            size = torch.where(scenes.sizes < 2, r["sizes"][scenes.sizes.clamp(max=1)], -1)
            place = r["places"][scenes.places]
            return torch.stack((r["objects"][item], r["groups"][item], r["styles"][style], *common, place, size), 1)
        alike = torch.where(scenes.styles[:, 0] == scenes.styles[:, 1], r["styles"][style], -1)
        first, second = r["objects"][scenes.objects].unbind(1)
        return torch.stack((first, second, alike, *common, r["arrangements"][scenes.arrangements]), 1)

    def refer(self, scenes: Scenes, named: Tensor, kind: str) -> list[Scenes]:
        """One picture for each object that a reference shows; what the words name is drawn differently there."""
        style, colour, pattern = (named[:, column] for column in (STYLE, COLOUR, PATTERN))
        moved = named[:, PLACE] | named[:, SIZE] if kind == "one" else torch.ones_like(style)
        count = 2 if kind.startswith("two") else 1
        pictures = [self._portrait(scenes, index, style, colour, pattern, moved) for index in range(count)]
        if count == 2:
            self._other_background(pictures, colour, pattern)
        return pictures

    def _portrait(
        self, scenes: Scenes, index: int, style: Tensor, colour: Tensor, pattern: Tensor, moved: Tensor
    ) -> Scenes:
        """A reference that shows one object alone."""
        count = len(scenes)
        new = make_scenes(scenes.objects[:, index : index + 1])
        near = scenes.boxes[:, index : index + 1].clone()
        near[..., 0] *= torch.exp(torch.randn(count, 1, device=self.device) * 0.06)
        near[..., 1:3] += torch.randn(count, 1, 2, device=self.device) * 0.03
        near[..., 3] = new.boxes[..., 3]
        central = new.boxes.clone()
        central[..., 0] = torch.rand(count, 1, device=self.device) * 0.4 + 0.55
        central[..., 1:3] = torch.randn(count, 1, 2, device=self.device) * 0.06
        central = torch.where(torch.rand(count, 1, 1, device=self.device) < 0.8, central, new.boxes)
        return replace(
            new,
            boxes=torch.where(moved[:, None, None], central, near),
            styles=torch.where(style[:, None], new.styles, scenes.styles[:, index : index + 1]),
            colours=torch.where(colour, new.colours, scenes.colours),
            patterns=torch.where(pattern, new.patterns, scenes.patterns),
        )

    def _other_background(self, pictures: list[Scenes], colour: Tensor, pattern: Tensor) -> None:
        """In half of the rows one of two references has a background of its own."""
        first = torch.rand(len(colour), device=self.device) < 0.5
        own = torch.rand(len(colour), device=self.device) < 0.5
        for picture, mine in zip(pictures, (first, ~first), strict=True):
            fresh = torch.randint(len(COLOURS), (len(colour),), device=self.device)
            picture.colours = torch.where(own & mine, fresh, picture.colours)
            picture.patterns = torch.where(own & mine, random_patterns(len(colour), self.device), picture.patterns)

    def close(self, scenes: Scenes, words: int, references: int) -> Tensor:
        """Which token may read which: bool [N, 1, L, L], closed from outside a reference's region to its tokens."""
        count, context = len(scenes), references * REFERENCE_TOKENS + words
        mask = torch.ones(count, 1, context + GRID * GRID, context + GRID * GRID, dtype=torch.bool, device=self.device)
        for index in range(references):
            keys = slice(index * REFERENCE_TOKENS, (index + 1) * REFERENCE_TOKENS)
            mask[:, 0, context:, keys] = self._region(scenes, index)[:, :, None]
        return mask

    def _region(self, scenes: Scenes, index: int) -> Tensor:
        """Image tokens in a region around an object, bool [N, G]: a box with margins, or half of the picture."""
        count = len(scenes)
        line = (torch.arange(GRID, device=self.device) + 0.5) / GRID * 2 - 1
        y, x = torch.meshgrid(line, line, indexing="ij")
        y, x = y.flatten()[None], x.flatten()[None]
        half, centre_x, centre_y, _ = scenes.boxes[:, index].unbind(-1)
        margin = torch.rand(4, count, 1, device=self.device) * 0.4
        dx, dy, reach = x - centre_x[:, None], y - centre_y[:, None], half[:, None]
        box = (
            (-dx < reach + margin[0]) & (dx < reach + margin[1]) & (-dy < reach + margin[2]) & (dy < reach + margin[3])
        )
        upright = centre_x.abs() >= centre_y.abs()
        across = torch.where(upright, centre_x.sign(), centre_y.sign())[:, None]
        halves = torch.where(upright[:, None], x, y) * across > 0
        aside = torch.maximum(centre_x.abs(), centre_y.abs()) > 0.25
        use_half = (torch.rand(count, device=self.device) < 0.4) & aside
        return torch.where(use_half[:, None], halves, box)


def bicubic_matrix(source: int, target: int, device: torch.device | str) -> Tensor:
    """The antialiased bicubic resize of `redux.image.resize` along one axis as a matrix [target, source]."""
    eye = torch.eye(source, device=device)[None, None]
    rows = interpolate(eye, size=(target, source), mode="bicubic", antialias=True, align_corners=False)
    return rows[0, 0]


def pixel_values(pictures: Tensor, matrix: Tensor) -> Tensor:
    """Pictures [..., 3, Y, X] in 0..1 to what the tower reads, as `redux.image.fit_stretch` makes it."""
    resized = matrix @ pictures @ matrix.T
    return (resized.clamp(0, 1) * 255).round() / 255 * 2 - 1
