"""Put Redux Control's nodes into a workflow that was made for other Redux nodes.

    python -m convert workflow.json [-o NEW.json] [--keep-encoder]

The result is a new file beside the old one; nothing is overwritten. What could not be carried over is listed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .document import Conversion, ConvertError, convert


def read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())  # in any of Unicode's encodings, with a byte order mark or without
    except OSError as error:
        raise ConvertError(f"The workflow {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path} is no JSON: {error}.") from error


def write(workflow: dict[str, Any], path: Path, numbered: bool) -> Path:
    """To a file that does not exist yet; with `numbered`, to the next free name."""
    text = json.dumps(workflow, ensure_ascii=False, indent=1) + "\n"
    # UTF-8 has no half of a pair of surrogates, as a text that was cut may end in; JSON has, as \udXXX.
    content = text.encode("utf-8", "backslashreplace")
    for count in range(1, 1000):
        target = path if count == 1 else path.with_name(f"{path.stem}-{count}{path.suffix}")
        try:
            _create(target, content)
            return target
        except FileExistsError:
            if not numbered:
                raise ConvertError(f"{path} exists, and nothing is overwritten; name another file.") from None
        except OSError as error:
            raise ConvertError(f"{target} cannot be written: {error.strerror}.") from error
    raise ConvertError(f"There are 1000 files like {path} already; name another with -o.")


def _create(path: Path, content: bytes) -> None:
    """A new file; after an error, as on a full disk, none of it stays."""
    file = open(path, "xb")  # noqa: SIM115  # of a path that exists already nothing is removed
    try:
        with file:
            file.write(content)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def report(result: Conversion) -> str:
    lines = [*result.converted, ""] if result.converted else []
    if not result.notes:
        return "\n".join([*lines, "Everything was carried over."])
    return "\n".join([*lines, "Not carried over, or not exactly:", *(f"- {note}" for note in result.notes)])


def say(text: str) -> None:
    """Print, also what the terminal's encoding does not have."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workflow", type=Path, help="a file of File > Save or File > Export (API) in ComfyUI")
    parser.add_argument("-o", "--output", type=Path, help="where to; left out, beside the workflow as NAME-redux.json")
    parser.add_argument(
        "--keep-encoder", action="store_true", help="keep CLIP Vision Encode: its tokens to the last bits"
    )
    args = parser.parse_args(arguments)
    try:
        result = convert(read(args.workflow), args.keep_encoder)
        say(report(result))
        if result.converted:
            default = args.workflow.with_name(f"{args.workflow.stem}-redux.json")
            say(f"\nWritten to {write(result.workflow, args.output or default, args.output is None)}.")
        else:
            sys.exit("error: Nothing was converted, so nothing was written.")
    except ConvertError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
