"""What several files of tests say in the same words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from simonides import SimonidesError

JUNE = datetime(2026, 6, 1, 9, tzinfo=UTC)
DAY = timedelta(days=1)


def texts(found: Any) -> list[str]:
    return [each.text for each in found]


def refused(call: Callable[..., Any], *args: Any, **named: Any) -> SimonidesError:
    """Call, and return the error of our own tree; any other error, or none, fails the test."""
    with pytest.raises(SimonidesError) as caught:
        call(*args, **named)
    assert str(caught.value).strip()
    return caught.value
