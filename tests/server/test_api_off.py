"""The hosted endpoints are not there unless they are switched on."""

from __future__ import annotations

import pytest

from tools.client import Client, ClientError
from tools.server import Server

PATHS = ["/api/v2/wavespeed-ai/flux-redux-dev", "/v1/models/black-forest-labs/flux-redux-dev/predictions"]


def test_off_by_default(server: Server, client: Client) -> None:
    for path in PATHS:
        with pytest.raises(ClientError, match="40[45]"):
            client.request(path, {})
    with pytest.raises(ClientError, match="404"):
        client.request("/redux-api/openapi.json")
    assert not list((server.folder / "user").glob("redux-api*"))
