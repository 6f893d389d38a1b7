"""The weights of all-MiniLM-L6-v2: an int8 ONNX graph made from those published, and its vocabulary."""

from pathlib import Path

MODEL = "all-MiniLM-L6-v2"
DIMENSION = 384
MAX_TOKENS = 256  # of a text, its two special tokens included
LICENCE = "Apache-2.0"
ATTRIBUTION = "all-MiniLM-L6-v2 by sentence-transformers, Apache-2.0 licence; int8 ONNX export by Simonides"
SHA256 = {
    "model_int8.onnx": "bc0d35051f56ccad4772253ba03d6bba91355a34927ba67e34a3ec4186e48604",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


def path(name: str) -> Path:
    """Return where the file of that name, one of SHA256's, is."""
    return Path(__file__).parent / name
