"""Turns text into vectors.

To add an embedder, add one file to `embedders/`; its name is the scheme of the URL that opens it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


TOKEN_DIMENSION = 96  # of a token's vector
TOKEN_BYTES = TOKEN_DIMENSION // 2  # packed


class Embedder(Protocol):
    """Implementations are thread-safe, load their model on first use, and never block the event loop.

    What is missing (a package, a model, a server) raises Unavailable that says how to get it.
    """

    name: str  # the model and its recipe, e.g. "bge-small-en-v1.5/int8"; vectors of two names are never compared
    dimension: int
    max_tokens: int  # what is longer is cut: split it first
    unrelated: float  # about the cosine of texts that have nothing to do with each other; 0 where nobody measured it

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """Return one unit vector a text, in the order given: shape (len(texts), dimension)."""
        ...

    def tokens(self, text: str) -> int:
        """Return how many tokens the model's own tokenizer makes of the text, special tokens not counted."""
        ...

    def clear_cache(self) -> None:
        """Forget every text and vector seen: an erase must leave nothing behind."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class TokenEmbedder(Embedder, Protocol):
    """An embedder that also says what each token of a text means where it stands."""

    async def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[bytes]]:
        """Return what `embed` does, and for each text its token vectors as `tokens.pack` makes them."""
        ...
