"""What Replicate tells of models, versions and the account: here one model of one version, and nothing to deploy."""

from __future__ import annotations

import copy
from typing import Any

from aiohttp import web

from ..dialect import Reply, Route
from ..errors import ApiError
from ..gateway import Gateway
from ..schema import document

OWNER, NAME = "black-forest-labs", "flux-redux-dev"
MODEL = f"{OWNER}/{NAME}"
VERSION = "96b56814e57dfa601f3f524f82a2b336ef49012cda68828cb37cde66f481b7cb"
"""The vendor's own, so that references which name it go on working."""
MADE = "2024-11-21T00:00:00.000Z"
COG = "0.13.0"
"""There is no Cog here; clients read from it that outputs are complete lists."""
NO_DEPLOYMENT = f"There are no deployments on this server; send the request to /v1/models/{MODEL}/predictions."


async def model(gateway: Gateway, request: web.Request) -> Reply:
    return 200, _model(gateway.base_url(request))


async def models(gateway: Gateway, request: web.Request) -> Reply:
    return 200, page([_model(gateway.base_url(request))])


async def version(_: Gateway, request: web.Request) -> Reply:
    if request.match_info["version"] != VERSION:
        raise ApiError(404, f"{MODEL} has the version {VERSION} alone.")
    return 200, _version()


async def versions(_: Gateway, __: web.Request) -> Reply:
    return 200, page([_version()])


async def account(_: Gateway, __: web.Request) -> Reply:
    return 200, {"type": "user", "username": "redux", "name": "Redux Control", "github_url": ""}


async def nothing(_: Gateway, __: web.Request) -> Reply:
    return 200, page([])


async def hardware(_: Gateway, __: web.Request) -> Reply:
    return 200, []


async def no_deployment(_: Gateway, __: web.Request) -> Reply:
    raise ApiError(404, NO_DEPLOYMENT)


def page(results: list[Any], next: str | None = None, previous: str | None = None) -> dict[str, Any]:
    """A part of a list as Replicate sends it; `next` and `previous` are the addresses of the parts beside it."""
    return {"previous": previous, "next": next, "results": results}


def _model(base: str) -> dict[str, Any]:
    return {
        "url": f"{base}/v1/models/{MODEL}",
        "owner": OWNER,
        "name": NAME,
        "description": "FLUX.1 Redux on this server's ComfyUI.",
        "visibility": "public",
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 0,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": _version(),
    }


def _version() -> dict[str, Any]:
    inputs = copy.deepcopy(document()["components"]["schemas"]["ReplicateInput"])
    output = {"type": "array", "title": "Output", "items": {"type": "string", "format": "uri"}}
    schemas = {"Input": {**inputs, "title": "Input"}, "Output": output}
    info = {"title": MODEL, "version": "1"}
    described = {"openapi": "3.1.0", "info": info, "paths": {}, "components": {"schemas": schemas}}
    return {"id": VERSION, "created_at": MADE, "cog_version": COG, "openapi_schema": described}


ROUTES = (
    Route("GET", "/v1/models", models),
    Route("GET", f"/v1/models/{MODEL}", model),
    Route("GET", f"/v1/models/{MODEL}/versions", versions),
    Route("GET", f"/v1/models/{MODEL}/versions/{{version}}", version),
    Route("GET", "/v1/account", account),
    Route("GET", "/v1/hardware", hardware),
    Route("GET", "/v1/deployments", nothing),
    Route("GET", "/v1/deployments/{owner}/{name}", no_deployment),
    Route("POST", "/v1/deployments/{owner}/{name}/predictions", no_deployment),
)
