"""What turns text into vectors: one file an embedder, whose name is the scheme of the URL that opens it."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from ..errors import Invalid


def numbers(url: str, **defaults: int) -> dict[str, int]:
    """Return what the URL says after its `?`, whole numbers from 1, and the defaults where it says nothing."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in given.items():
        if name not in defaults or not value.isdecimal() or int(value) < 1:
            known = ", ".join(f"{name}={number}" for name, number in defaults.items()) or "none"
            raise Invalid(f"{url!r}: {name}={value} is not an option; those there are, whole numbers from 1: {known}")
    return defaults | {name: int(value) for name, value in given.items()}
