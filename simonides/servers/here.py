"""How the server is, at short addresses: /health and /capabilities are those of the API."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute

SHORT = ("health", "capabilities")


def mount(made: FastAPI) -> None:
    for route in [route for route in made.routes if isinstance(route, APIRoute) and route.name in SHORT]:
        made.add_api_route(
            f"/{route.name}", route.endpoint, methods=["GET"], name=f"{route.name}_here", include_in_schema=False
        )
