"""https with a self-made certificate, as `make serve ARGS=--https` has it: outputs are links that clients wrap."""

from __future__ import annotations

import shutil
import ssl
import urllib.request
from pathlib import Path

import pytest
from receiver import Receiver
from test_clients import check_replicate, told

from tools.api_server import make_server
from tools.certificate import ensure_certificate


def test_replicates_client_over_https(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; it makes the certificate.")
    certificate = ensure_certificate(tmp_path / "certificate")
    assert ensure_certificate(tmp_path / "certificate") == certificate  # made once
    made = make_server(tmp_path, trusted_hosts=["127.0.0.1"])
    made.certificate = certificate
    with made as server, Receiver() as web:
        assert server.url.startswith("https://")
        said = told("replicate_1", server, tmp_path, web, SSL_CERT_FILE=str(certificate.certificate))
        check_replicate(said)
        (link,) = said["streamed"]
        assert link.startswith(f"{server.url}/redux-api/outputs/")
        trust = ssl.create_default_context(cafile=certificate.certificate)
        with urllib.request.urlopen(link, context=trust) as answer:
            assert answer.read(4) == b"RIFF"
