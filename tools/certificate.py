"""A self-made certificate for this machine, so that a server of one's own can speak https."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .errors import ToolError

DAYS = 825
NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"


@dataclass(frozen=True)
class Certificate:
    """Files in PEM. Who trusts `certificate` trusts the server, and nobody else needs `key`."""

    certificate: Path
    key: Path


def ensure_certificate(folder: Path) -> Certificate:
    """The certificate in a folder, made with openssl unless there is one that holds for another day.

    Raises:
        ToolError: openssl is not installed, or fails.
    """
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    openssl = shutil.which("openssl")
    if openssl is None:
        raise ToolError("openssl is not installed; it makes the certificate for --https.")
    if made.key.exists() and _run([openssl, "x509", "-checkend", "86400", "-in", str(made.certificate)]) is None:
        return made
    folder.mkdir(parents=True, exist_ok=True)
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", str(DAYS), "-subj", "/CN=localhost"]
    made.key.touch(0o600)
    problem = _run([*command, "-addext", NAMES, "-keyout", str(made.key), "-out", str(made.certificate)])
    if problem is not None:
        raise ToolError(f"openssl cannot make a certificate: {problem}")
    return made


def _run(command: list[str]) -> str | None:
    """The last line of what a command says when it fails; None when it goes well."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1] if done.returncode else None
