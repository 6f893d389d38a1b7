"""Questions are embedded once among all who share a cache: what the model made of each is kept by a digest of it.

Only questions go this way. What is remembered is embedded beside it, and never kept there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from ..cache import Cache
from ..embedder import Embedder, TokenEmbedder
from ..errors import Unavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def questioned(embedder: Embedder, cache: Cache, group: str, seconds: float) -> Embedder:
    """Return the embedder of questions that keeps what it makes in that group of the cache, for so long."""
    kind = _Tokens if isinstance(embedder, TokenEmbedder) else _Vectors
    return kind(embedder, cache, group, seconds)


class _Vectors:
    def __init__(self, embedder: Embedder, cache: Cache, group: str, seconds: float) -> None:
        self.name, self.dimension, self.max_tokens = embedder.name, embedder.dimension, embedder.max_tokens
        self.unrelated = embedder.unrelated
        self._embedder, self._cache, self._group, self._seconds = embedder, cache, group, seconds

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        async def made(missing: Sequence[str]) -> tuple[NDArray[np.float32], list[bytes]]:
            return await self._embedder.embed(missing, query=query), [b""] * len(missing)

        return (await self._found(f"{self.name}/{query}", texts, made))[0]

    def tokens(self, text: str) -> int:
        return self._embedder.tokens(text)

    def clear_cache(self) -> None:
        self._embedder.clear_cache()

    async def close(self) -> None:
        """It is its opener's."""

    async def _found(
        self,
        how: str,
        texts: Sequence[str],
        made: Callable[[Sequence[str]], Awaitable[tuple[NDArray[np.float32], list[bytes]]]],
    ) -> tuple[NDArray[np.float32], list[bytes]]:
        """Return what is kept of the texts, and of the rest what is made of them, which is kept then."""
        import numpy as np

        size, keys = 4 * self.dimension, [f"{how}/{text}" for text in texts]
        try:
            kept = await self._cache.get(self._group, keys)
        except Unavailable:
            return await made(texts)
        known = {text: value for text, value in zip(texts, kept, strict=True) if value and len(value) >= size}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if missing:
            vectors, tokens = await made(missing)
            fresh = [row.astype("<f4").tobytes() + packed for row, packed in zip(vectors, tokens, strict=True)]
            known |= dict(zip(missing, fresh, strict=True))
            await self._keep({f"{how}/{text}": known[text] for text in missing})
        vectors = np.stack([np.frombuffer(known[text][:size], "<f4") for text in texts]).astype(np.float32)
        return vectors, [known[text][size:] for text in texts]

    async def _keep(self, values: dict[str, bytes]) -> None:
        try:
            await self._cache.set(self._group, values, self._seconds)
        except Unavailable:
            return  # the next who asks embeds it again


class _Tokens(_Vectors):
    async def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[bytes]]:
        embedder = self._embedder
        assert isinstance(embedder, TokenEmbedder)
        return await self._found(f"{self.name}/tokens", texts, embedder.encode)
