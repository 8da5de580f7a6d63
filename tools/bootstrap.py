"""What the Makefile runs with the system's Python: prepare an environment, then go on in it.

    python3 tools/bootstrap.py demo|serve|lint|test|test-all [arguments]

Old Pythons must be able to read this file, or they could not say that they are too old.
"""

import os
import sys

if sys.version_info < (3, 10):  # noqa: UP036
    found = ".".join(str(part) for part in sys.version_info[:2])
    sys.exit("error: this is Python " + found + "; 3.10 or newer is needed, e.g. make demo PYTHON=python3.12.")

import runpy  # noqa: E402

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    runpy.run_module("tools.environment", run_name="__main__")
