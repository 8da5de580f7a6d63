"""Whether a sampling has an image for each value of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from ...redux.reference import Reference
from .prompt_graph import empty_images
from .session import Session


def check_sweep(references: Sequence[Reference], images: int, session: Session) -> None:
    """Say once that values of a sweep are left out, on the node that samples and in the log.

    A piece of the sweep's batch has fewer images and is right. Where nothing tells whether a latent is one, the
    sampling goes on.

    Args:
        images: that are sampled.

    Raises:
        ValueError: the whole latent has fewer images than the sweep has values, for it was made empty just before.
    """
    values = max((max(len(one.strengths), len(one.ends)) for one in references), default=0)
    if images >= values or len(session.images) == images:
        return
    told = f"Redux Sweep has values for {values} images and this sampler has {images}"
    if any(count < values for count in empty_images()):
        session.refuse(f"{told}; connect the latent of Redux Sweep to it.")
    session.tell(f"{told}, so the last values are left out; connect the latent of Redux Sweep to it.")
