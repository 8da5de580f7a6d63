"""`python -m api.pool.worker --host http://127.0.0.1:8188`: takes jobs from the pool for the ComfyUI beside it.

One worker for each ComfyUI; what it needs to know of the pool is in the environment, see settings.py.
"""

from __future__ import annotations

import argparse
import socket

from .pack import load


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api.pool.worker", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="http://127.0.0.1:8188", help="address of the ComfyUI that it works for")
    parser.add_argument("--name", default="", help="of its own in the pool; by default this machine and the port")
    parser.add_argument("--folder", default="", help="of that ComfyUI, where what was fetched is to be removed")
    args = parser.parse_args()
    name = args.name or f"{socket.gethostname()}-{args.host.rpartition(':')[2].strip('/')}"
    load("labour").work(args.host, name, args.folder)


if __name__ == "__main__":
    main()
