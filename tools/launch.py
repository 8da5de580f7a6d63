"""Runs ComfyUI's main.py in this process and ends it when the parent is gone, whatever killed the parent.

    python launch.py COMFYUI_FOLDER [ComfyUI's arguments]

Standard input is a pipe that only the parent holds open: its end of file is the sign. Standard library only, since
this runs in the Python of any ComfyUI.
"""

import os
import runpy
import sys
import threading


def _follow_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    folder = sys.argv.pop(1)
    sys.argv[0] = os.path.join(folder, "main.py")
    sys.path[0] = folder
    threading.Thread(target=_follow_parent, daemon=True).start()
    runpy.run_path(sys.argv[0], run_name="__main__")
