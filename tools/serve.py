"""`make serve`: ComfyUI with this pack and its web page, until Ctrl-C. Its folders lie in output/comfyui."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from . import checkpoints
from .errors import ToolError
from .host import ROOT, ensure
from .server import Server, end_on_signals


def main() -> None:
    parser = argparse.ArgumentParser(prog="make serve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=8188, help="of the web page; 0 takes a free one")
    args = parser.parse_args()
    end_on_signals()
    folder = ROOT / "output" / "comfyui"
    try:
        checkpoints.write_checkpoints(folder / "models")
        with Server(ensure(), folder, port=args.port) as server:
            print(f"ComfyUI {server.host.version}: {server.url} (log: {server.log}); Ctrl-C ends it.", flush=True)
            while (end := server.explain_end()) is None:
                time.sleep(0.5)
            raise ToolError(end)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("\nStopped.")
    except ToolError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
