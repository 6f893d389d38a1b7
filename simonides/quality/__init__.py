"""How well recall finds what it should, measured on public data sets, through the same calls that every user makes.

    sets = find(Path("data"))
    measured = run(sets)
    print(table(measured.summary()))

A data set is read in its official format, kept through `keep` and `remember` with the times it gives, and asked through
`recall`. What a set says of its answers is looked at only after recall has answered. Nothing is learned from it here.
"""

from .compare import Difference, compare, lost
from .run import Costs, Measured, Plan, read_run, run
from .sets import DataSet, find
from .table import table

__all__ = [
    "Costs",
    "DataSet",
    "Difference",
    "Measured",
    "Plan",
    "compare",
    "find",
    "lost",
    "read_run",
    "run",
    "table",
]
