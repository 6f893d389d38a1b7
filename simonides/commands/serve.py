"""Serve the memory to others: over HTTP, MCP, and as an OpenAI-compatible proxy."""

from __future__ import annotations

import gc
from typing import Any

import click

from ..asked import SERVE, Asked, command
from ..errors import Invalid
from ..flags import serving_flags


@command(SERVE, "simonides serve\nsimonides serve --port 8080 --require-key\nsimonides serve --host 0.0.0.0")
@serving_flags()
def serve(asked: Asked, **flags: Any) -> None:
    """Serve the memory over HTTP and MCP, and to OpenAI clients, until Ctrl+C.

    On this machine alone, unless --host says otherwise; then whoever calls needs a key (`simonides keys create`).
    Every setting may also come from the environment or the configuration file: see `simonides config`.
    """
    if named := ", ".join(f"--{level}" for level in ("user", "agent", "session") if getattr(asked, level) is not None):
        raise Invalid(
            f"{named}: a server is there for everybody, and a key says for whom it opens: see `simonides keys`"
        )
    gc.disable()  # nothing of what is imported and made until it is ready is garbage: looking for some takes a tenth
    try:
        from ..servers import run
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the server needs {error.name}: install it with `pip install 'simonides[serve]'`"
        ) from None
    run.serve(asked.store, flags, as_json=asked.json, tenant=asked.tenant, space=asked.space, embedder=asked.embedder)
