"""Moves graphs of other Redux nodes to the nodes of this pack; needs nothing but Python.

    python -m convert workflow.json      # in the pack's folder; `python -m tools.convert` in a checkout is the same

`convert.convert(workflow)` does it with a parsed workflow, in the page's form or in API form, and changes nothing that
is passed in. What it could not carry over stands in the notes of what it returns.
"""

from .document import Conversion, ConvertError, convert

__all__ = ["Conversion", "ConvertError", "convert"]
