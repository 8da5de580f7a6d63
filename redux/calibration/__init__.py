"""Find out which heads of a FLUX carry what of a reference, and make presets of it."""

from .course import Course, Painter, Picture, Progress, Settings

__all__ = ["Course", "Painter", "Picture", "Progress", "Settings"]
