"""For all tiers."""

import signal

# A shell starts background jobs with SIGINT ignored, and children inherit that; some tests interrupt their children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
