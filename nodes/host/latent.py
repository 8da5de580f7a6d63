"""Latents as ComfyUI's nodes pass them on, and which images of a larger batch they hold."""

from __future__ import annotations

import itertools
import sys
from types import FrameType
from typing import Any

from torch import Tensor


class Swept(int):
    """The number of an image's noise, which knows the image's place in a swept batch too.

    All images of a sweep have one noise, so that its number does not tell them apart. What cuts a batch into pieces
    cuts the list of these numbers with it.
    """

    place: int

    def __new__(cls, number: int, place: int = 0) -> Swept:
        swept = super().__new__(cls, number)
        swept.place = place
        return swept


def repeat_latent(latent: dict[str, Any], times: int) -> dict[str, Any]:
    """The whole batch again and again; a picture has the same noise each time, the one that it has alone."""
    samples = latent["samples"]
    count = len(samples)
    repeated = {**latent, "samples": samples.repeat(times, *[1] * (samples.ndim - 1))}
    numbers = [*latent.get("batch_index", range(count))] * times
    repeated["batch_index"] = [Swept(number, place) for place, number in enumerate(numbers)]
    mask = latent.get("noise_mask")
    if mask is not None and len(mask) == count:
        repeated["noise_mask"] = mask.repeat(times, *[1] * (mask.ndim - 1))
    return repeated


def image_numbers() -> tuple[int, ...]:
    """The numbers that the sampled latent's images had in a larger batch, as Redux Sweep, Rebatch Latents and Latent
    From Batch note them; () where nothing is noted.

    ComfyUI hands them to the noise alone. So they are read from the LATENT of the nearest function that has one, the
    sampler's node. But for a sweep's only rising ones count: Latent Batch joins latents that were both numbered from 0.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        latents = [value for value in frame.f_locals.values() if isinstance(value, dict) and "samples" in value]
        latents = [latent for latent in latents if isinstance(latent["samples"], Tensor)]
        if latents:
            return _places(tuple(latents[0].get("batch_index") or ()), len(latents[0]["samples"]))
        frame = frame.f_back
    return ()


def _places(numbers: tuple[int, ...], images: int) -> tuple[int, ...]:
    swept = tuple(number.place for number in numbers if isinstance(number, Swept))
    numbers = swept if len(swept) == len(numbers) else numbers
    rising = all(one < other for one, other in itertools.pairwise(numbers))
    return numbers if rising and len(numbers) == images else ()
