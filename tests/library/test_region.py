"""A region on the token grid, against counting small squares."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redux.region import region_on_grid

sides = st.integers(1, 12)


@given(sides, sides, sides, sides, st.integers(1, 3), st.integers(0, 2**31))
@settings(deadline=None)
def test_every_token_takes_the_mean_of_what_it_shows(
    height: int, width: int, pixels_y: int, pixels_x: int, patch: int, seed: int
) -> None:
    region = torch.rand(1, pixels_y, pixels_x, generator=torch.Generator().manual_seed(seed))
    fine = region[0].repeat_interleave(height, 0).repeat_interleave(width, 1)
    rows = fine.split(patch * pixels_y, 0)
    expected = torch.tensor([[cell.mean() for cell in row.split(patch * pixels_x, 1)] for row in rows])
    assert torch.allclose(region_on_grid(region, (height, width), patch)[0], expected, atol=1e-5)


def test_ones_stay_ones_and_zeros_zeros() -> None:
    for height, width, patch in ((64, 64, 2), (17, 15, 2), (90, 125, 2)):
        ones = region_on_grid(torch.ones(1, 37, 1001), (height, width), patch)
        assert torch.allclose(ones, torch.ones_like(ones), atol=1e-6)
        assert not region_on_grid(torch.zeros(2, 37, 1001), (height, width), patch).any()
