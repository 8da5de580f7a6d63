"""`python -m tools NAME [arguments]` runs the program tools/NAME.py.

Ctrl-C while that is still being imported, which takes some tenths of a second, ends it in one line too.
"""

from __future__ import annotations

import runpy
import sys


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tools NAME [arguments]")
    name = sys.argv.pop(1)
    try:
        runpy.run_module(f"tools.{name}", run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
