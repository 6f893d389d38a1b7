"""The weights of potion-base-8M: a vector for each token, rounded to int8, and the vocabulary."""

from pathlib import Path

MODEL = "potion-base-8M"
DIMENSION = 256
MAX_TOKENS = 512
LICENCE = "MIT"
ATTRIBUTION = "potion-base-8M by MinishLab (model2vec), MIT licence; rounded to int8 by Simonides"
SHA256 = {
    "vectors.npy": "a3633720b6a5c3bcc5f12cfc34d287c725971550c676d536abc469788e9e45a0",
    "scales.npy": "dc099ad7950f4e43db14ff6d3f679c0af9862c7941ff374ae9b1afb947cb9941",
    "vocab.txt": "1394523a67ddd404a825428018c0582a6998bcfa044ecbcbf1f4d71adb94c61c",
}


def path(name: str) -> Path:
    """Return where the file of that name, one of SHA256's, is."""
    return Path(__file__).parent / name
