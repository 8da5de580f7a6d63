"""The converter of shared workflows, from a checkout: `python -m tools.convert workflow.json`.

It lives in `convert/`, since the published pack has no tools.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("convert", run_name="__main__", alter_sys=True)
