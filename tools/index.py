"""The package index, and the way to it, of pip's configuration, for uv, which does not read that."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Mapping

NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "keyring-provider": "UV_KEYRING_PROVIDER",
}


def uv_environ(python: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment variables for uv after the configuration of the pip that `python` has; none where it has no pip."""
    done = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    return translate(done.stdout, environ)


def translate(pip_config: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The same from the text of `pip config list`; what `environ` has already is left out."""
    pip: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for line in pip_config.splitlines():
            match = re.match(rf"{section}\.([\w-]+)=('.*'|\".*\")$", line)
            if match:
                pip[match[1]] = str(ast.literal_eval(match[2]))
    found = {uv: " ".join(pip[key].split()) for key, uv in NAMES.items() if pip.get(key)}
    if "UV_FIND_LINKS" in found:
        found["UV_FIND_LINKS"] = found["UV_FIND_LINKS"].replace(" ", ",")
    if "UV_INDEX" in found:
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # what pip does with several indexes
    return {key: value for key, value in found.items() if key not in environ}
