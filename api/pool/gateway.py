"""`python -m api.pool.gateway`: the endpoints without a ComfyUI, over a pool of them.

The endpoints' own settings are redux-api.json in --folder and REDUX_API_KEYS, as inside ComfyUI (api/settings.py);
what it needs to know of the pool is in the environment, see settings.py here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .pack import load


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api.pool.gateway", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--listen", default="127.0.0.1", help="the address at which it answers")
    parser.add_argument("--port", type=int, default=8288)
    parser.add_argument("--folder", type=Path, default=Path("redux-gateway"), help="for its settings and its uploads")
    args = parser.parse_args()
    load("serve").serve(args.listen, args.port, args.folder)


if __name__ == "__main__":
    main()
