"""For all tiers."""

import random
import signal
import sys

from hypothesis import HealthCheck, settings

# A shell starts background jobs with SIGINT ignored, and children inherit that; some tests interrupt their children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Neither how fast the machine is nor what is drawn decides whether a test passes.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("steady")


def pytest_runtest_setup() -> None:
    """What is drawn without a generator is the same in every run, and is not what generators of a small seed draw."""
    random.seed(7_243_011)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(7_243_011)
