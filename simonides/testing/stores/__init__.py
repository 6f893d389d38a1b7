"""What every store owes. Subclass StoreSuite, give it the two fixtures below, and run pytest (asyncio_mode = "auto").

`make_store` returns an async function that opens a new, empty store each time; whoever calls it closes the store.
`store` is one such store, closed after the test. See `tests/conftest.py` for both.

    class TestMyStore(StoreSuite):
        pass

The stories come first, one file for each part of the contract; what holds for every record and every query comes last,
as rules that hypothesis tries to break.
"""

from .clocks import Clocks
from .concurrency import Concurrency
from .copying import Copying
from .erasing import Erasing
from .finding import Finding
from .growing import Growing
from .keys import Keys
from .letters import Letters
from .paging import Paging
from .recalling import Recalling
from .restoring import Restoring
from .rules import Rules
from .steps import MakeStore, rule, told
from .texts import Texts
from .upkeep import Upkeep
from .vectors import Vectors
from .walls import Walls
from .words import Words
from .writing import Writing

__all__ = ["MakeStore", "StoreSuite", "rule", "told"]


class StoreSuite(
    Writing,
    Keys,
    Concurrency,
    Growing,
    Restoring,
    Erasing,
    Clocks,
    Finding,
    Paging,
    Words,
    Texts,
    Walls,
    Vectors,
    Recalling,
    Copying,
    Letters,
    Upkeep,
    Rules,
):
    """Everything that a store owes."""
