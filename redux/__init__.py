"""FLUX.1 Redux as a torch library: read a reference picture, control it in attention. Needs no ComfyUI."""

__version__ = "0.1.0"

from . import attention
from .config import ReduxConfig, SiglipConfig
from .mix import mix
from .model import ReduxModel
from .tokens import ReduxTokens

__all__ = ["ReduxConfig", "ReduxModel", "ReduxTokens", "SiglipConfig", "attention", "mix"]
