"""The embedding model that comes along: bge-small-en-v1.5, int8, on onnxruntime. `local:`, `local:?threads=2&cache=9`

Nothing is downloaded and nobody is called: the weights are in the package simonides-bge-small.

A text's vector is a function of the text alone, the same in every call. So the model sees one text at a time: its
activations are rounded with one scale for the whole input, and in a batch a text's vector would depend on its
neighbours (cosine to itself down to .987; an index that can be rebuilt needs 1). Threads make up for it: several texts
at once with a thread each is faster than a batch with several threads, and nothing is padded.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Unavailable
from ..tokens import pack
from . import numbers
from .wordpiece import WordPiece

if TYPE_CHECKING:
    from numpy.typing import NDArray

Encoded = tuple["NDArray[np.float32]", bytes]  # the vector of a text, and its packed token vectors

THREADS_MAX = 4  # by default: memory should not take a machine over
BLOCK = 6  # tokens: OpenBLAS keeps a product of up to 2^18 multiplications (6 × 384 × 96) to one thread
TURN = 4  # texts a thread takes before others get theirs, about 15 ms: a question does not wait for an import to end


class LocalEmbedder:
    """bge-small-en-v1.5: the first token's vector, of unit length.

    Questions get no prefix: with the one its authors suggest, recall on conversations was lower (57.1 to 57.6 %).
    """

    name = "bge-small-en-v1.5/int8"
    dimension = 384
    max_tokens = 510  # of the text; the two special ones make 512
    unrelated = 0.5  # half of all pairs of chat turns are nearer than .65, one in twenty is further than .49
    package, graph, extra = "simonides_bge_small", "model_quantized.onnx", "local"

    def __init__(self, url: str = "local:") -> None:
        given = numbers(url, threads=min(_processors(), THREADS_MAX), cache=4096)
        self._scheme, self._threads = url.partition(":")[0], given["threads"]
        self._recent = _Recent(given["cache"])
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix=f"embed-{self._scheme}")
        self._loading = threading.Lock()
        self._words: WordPiece | None = None
        self._session: Any = None

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """Return one unit vector a text, in the order given: shape (len(texts), 384). `query` makes no difference."""
        return (await self.encode(texts))[0]

    async def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[bytes]]:
        """Return what `embed` does, and for each text its token vectors as `tokens.pack` makes them.

        A token's vector is the model's last layer at its place, less the mean of such vectors, on the 96 axes along
        which they differ most: `bench/fit_tokens.py` found mean and axes on the sample archive. For ranking they are as
        good as all 384 dimensions, at an eighth of the bytes in four bits a number (`docs/decisions/0009`).
        """
        recent = self._recent  # if it is cleared meanwhile, what we still put into it is not seen again
        keys = [_key(text) for text in texts]
        known = {key: encoded for key in keys if (encoded := recent.get(key)) is not None}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            for key, encoded in (await self._infer(missing)).items():
                recent.put(key, encoded)
                known[key] = encoded
        vectors = np.stack([known[key][0] for key in keys]) if keys else np.empty((0, self.dimension), np.float32)
        return vectors, [known[key][1] for key in keys]

    def tokens(self, text: str) -> int:
        """Return how many tokens the model's own tokenizer makes of the text, special tokens not counted."""
        return len(self._tokenizer().encode(text))

    def clear_cache(self) -> None:
        """Forget every text and vector seen."""
        self._recent = _Recent(self._recent.size)
        if self._words:
            self._words.clear_cache()

    async def close(self) -> None:
        """Let go of the model and its threads, once the texts in hand are done; embedding afterwards is an error."""
        await asyncio.to_thread(self._pool.shutdown)
        self._session = self._words = None

    async def _infer(self, texts: dict[bytes, str]) -> dict[bytes, Encoded]:
        loop = asyncio.get_running_loop()
        if self._session is None:  # once, first, so that what is missing is raised once
            await loop.run_in_executor(self._pool, self._load)
        found: dict[bytes, Encoded] = {}

        async def take_turns(rest: Iterator[tuple[bytes, str]]) -> None:
            while turn := dict(islice(rest, TURN)):
                encoded = await loop.run_in_executor(self._pool, self._encode_all, list(turn.values()))
                found.update(zip(turn, encoded, strict=True))

        rest = iter(texts.items())
        await asyncio.gather(*(take_turns(rest) for _ in range(self._threads)))
        return found

    def _encode_all(self, texts: list[str]) -> list[Encoded]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> Encoded:
        vector, telling = self.look(text)
        return vector, pack(_projected(telling)) if len(telling) else b""

    def look(self, text: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the vector of the text and those of its tokens that say something, none where the graph hides them.

        All are of unit length; the shapes are (384,) and (tokens, 384).
        """
        words, session = self._tokenizer(), self._load()
        ids = [words.start, *words.encode(text)[: self.max_tokens], words.end]
        given = np.array([ids], np.int64)
        inputs = {"input_ids": given, "attention_mask": np.ones_like(given), "token_type_ids": np.zeros_like(given)}
        output = session.run(None, {node.name: inputs[node.name] for node in session.get_inputs()})[0]
        rows: NDArray[np.float32] = output.reshape(-1, self.dimension)  # a row a token, or one that is pooled
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        telling = [place for place, id in enumerate(ids) if id not in words.silent] or list(range(1, len(ids) - 1))
        return rows[0].copy(), rows[telling] if len(rows) == len(ids) else rows[:0]

    def _tokenizer(self) -> WordPiece:
        with self._loading:
            if self._words is None:
                self._words = WordPiece(self._file("vocab.txt"))
            return self._words

    def _load(self) -> Any:
        with self._loading:
            if self._session is None:
                os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # begins at the import, with an id of the machine
                self._session = _session(self._import("onnxruntime"), self._file(self.graph))
            return self._session

    def _file(self, name: str) -> Path:
        path: Path = self._import(self.package).path(name)
        if not path.is_file():
            raise self._unavailable(f"the weights in the package {self.package}: {path} is not there")
        return path

    def _import(self, module: str) -> Any:
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise self._unavailable(f"the package {module}: {error}") from error

    def _unavailable(self, missing: str) -> Unavailable:
        return Unavailable(
            f"the embedder {self._scheme}: needs {missing}. Install it with: pip install 'simonides[{self.extra}]'"
            " (in a clone of the repository: make install)"
        )


open = LocalEmbedder


class _Recent:
    """The vectors last made, by digests of their texts: what was said is not kept a second time. Thread-safe."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._encoded: OrderedDict[bytes, Encoded] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Encoded | None:
        with self._lock:
            if key in self._encoded:
                self._encoded.move_to_end(key)
            return self._encoded.get(key)

    def put(self, key: bytes, encoded: Encoded) -> None:
        with self._lock:
            self._encoded[key] = encoded
            if len(self._encoded) > self.size:
                self._encoded.popitem(last=False)


def _projected(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows on the axes, of unit length. They are multiplied a few at a time: a larger product would wake all
    of BLAS's threads, which then spin for longer than the model takes over the text.
    """
    mean, axes = _axes()
    centred, found = rows - mean, np.empty((len(rows), axes.shape[1]), np.float32)
    for start in range(0, len(rows), BLOCK):
        np.matmul(centred[start : start + BLOCK], axes, out=found[start : start + BLOCK])
    length = np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
    return np.asarray(found / length, np.float32)


@cache
def _axes() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with resources.files(__package__).joinpath("local_tokens.npz").open("rb") as file, np.load(file) as kept:
        return kept["mean"].astype(np.float32), kept["axes"].astype(np.float32)


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _session(onnxruntime: Any, graph: Path) -> Any:
    onnxruntime.disable_telemetry_events()  # where somebody had imported it before
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal: errors are raised as well, and the rest is advice to whoever made the graph
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
