"""Hosted Redux APIs on your own ComfyUI: WaveSpeedAI's and Replicate's requests, answered by ComfyUI's own queue.

Off unless REDUX_API=1 or redux-api.json in ComfyUI's user folder says so; see settings.py.
"""

import logging
import os
from pathlib import Path

from .settings import FILE, load_settings

log = logging.getLogger(__name__)


def switch_on() -> bool:
    """Register the endpoints with the running ComfyUI where the settings ask for it; called once, as the pack loads."""
    import folder_paths

    try:
        settings = load_settings(Path(folder_paths.get_user_directory()) / FILE, os.environ)
    except ValueError as error:
        log.error("The Redux API stays off: %s", error)
        return False
    if not settings.enabled:
        return False
    from .routes import register

    register(settings)
    who = f"keys: {len(settings.keys)}" if settings.keys else "no key is set: for this machine only"
    log.info("The Redux API is on (%s).", who)
    return True
