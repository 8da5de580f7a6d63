"""The converter of shared workflows, for ComfyUI's page: POST /redux/convert, asked by nodes/web/convert_workflow.js.

ComfyUI's own node replacement is no way to offer this: it puts one node for one, only where a class is missing, and
without asking when a graph is queued; here three or four nodes become three, and the user decides.
"""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import web

from ...convert import ConvertError, convert

PATH = "/redux/convert"


def serve_converter() -> None:
    """Add the route, once; without a server, as in tests, do nothing."""
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    instance = getattr(server, "instance", None)
    if instance is not None and not any(getattr(route, "path", None) == PATH for route in instance.routes):
        instance.routes.post(PATH)(answer)


async def answer(request: web.Request) -> web.Response:
    """A workflow in, {"workflow", "converted", "notes"} out; {"error": one sentence} with status 400 otherwise."""
    try:
        workflow = json.loads(await request.read())
        result = await asyncio.to_thread(convert, workflow)
    except ConvertError as error:
        return web.json_response({"error": str(error)}, status=400)
    except (ValueError, RecursionError):  # also of a number with more digits than Python reads
        return web.json_response({"error": "This is no JSON; a workflow of ComfyUI is needed."}, status=400)
    return web.json_response(vars(result))
