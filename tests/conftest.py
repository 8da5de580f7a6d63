"""For all tiers."""

import signal

from hypothesis import HealthCheck, settings

# A shell starts background jobs with SIGINT ignored, and children inherit that; some tests interrupt their children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Neither how fast the machine is nor what is drawn decides whether a test passes.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("steady")
