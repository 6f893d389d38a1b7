"""The documentation that can be tried out, at /docs: Swagger UI, from this server alone."""

from __future__ import annotations

import asyncio
import functools
import importlib.resources
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import Unavailable

if TYPE_CHECKING:
    from fastapi import FastAPI

PARTS = {
    "/docs/swagger-ui.css": ("swagger-ui.css", "text/css"),
    "/docs/swagger-ui.js": ("swagger-ui-bundle.js", "text/javascript"),
    "/docs/favicon.png": ("favicon-32x32.png", "image/png"),
}
PATHS = ("/openapi.json", "/docs", "/docs/start.js", *PARTS)
# Swagger UI styles its elements one by one, and draws its icons from data: URLs. It loads nothing from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' "
    "data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Simonides: the API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" type="image/png" href="docs/favicon.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  filter: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
});
"""
KEPT = "public, max-age=86400"


def add(made: FastAPI) -> None:
    made.router.routes.append(Route("/openapi.json", _openapi(made), include_in_schema=False))
    made.router.routes.append(Route("/docs", _page, include_in_schema=False))
    made.router.routes.append(Route("/docs/start.js", _start, include_in_schema=False))
    made.router.routes.extend(Route(path, _part, include_in_schema=False) for path in PARTS)


def _openapi(made: FastAPI) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers with the description of the API. Making it takes a while, and holds up nobody."""

    @functools.cache
    def description() -> bytes:
        return msgspec.json.encode(made.openapi())

    async def openapi(request: Request) -> Response:
        return Response(await asyncio.to_thread(description), media_type="application/json")

    return openapi


async def _page(request: Request) -> Response:
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return Response(PAGE, headers=headers, media_type="text/html")


async def _start(request: Request) -> Response:
    return Response(START, headers={"Cache-Control": "no-cache"}, media_type="text/javascript")


async def _part(request: Request) -> Response:
    name, media_type = PARTS[request.url.path]
    return Response(_read(name), headers={"Cache-Control": KEPT}, media_type=media_type)


@functools.cache
def _read(name: str) -> bytes:
    try:
        return (importlib.resources.files("fastapi_swagger") / "resources" / name).read_bytes()
    except ModuleNotFoundError:
        raise Unavailable("the documentation needs `fastapi-swagger`: `pip install 'simonides[serve]'`") from None
