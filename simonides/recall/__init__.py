"""Finds what is worth having in mind for a text.

`understand` the question → `gather` candidates in several ways → weigh each by `signals` → `fuse` and `rank` them →
`fit` them into a budget. Every step is a plain function over plain data; the store and the index are only read in
`gather`.
"""

from .answer import answer
from .fit import Citation, Context, fitted
from .means import EFFORTS, WORDS_ALONE, Effort, Hits, Means
from .missing import Missing, missing
from .question import Question, understand
from .questions import questioned

__all__ = [
    "EFFORTS",
    "WORDS_ALONE",
    "Citation",
    "Context",
    "Effort",
    "Hits",
    "Means",
    "Missing",
    "Question",
    "answer",
    "fitted",
    "missing",
    "questioned",
    "understand",
]
