"""The weights of bge-small-en-v1.5: an int8 ONNX graph and its vocabulary, as published, and nothing that runs."""

from pathlib import Path

MODEL = "bge-small-en-v1.5"
DIMENSION = 384
MAX_TOKENS = 512  # of a text, its two special tokens included
LICENCE = "MIT"
ATTRIBUTION = "bge-small-en-v1.5 by BAAI (FlagEmbedding), MIT licence; int8 ONNX export by Xenova, unmodified"
SHA256 = {
    "model_quantized.onnx": "6c9c6101a956d62dfb5e7190c538226c0c5bb9cb27b651234b6df063ee7dbfe4",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


def path(name: str) -> Path:
    """Return where the file of that name, one of SHA256's, is."""
    return Path(__file__).parent / name
