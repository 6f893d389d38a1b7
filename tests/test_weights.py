"""The weights of recall are a file: what is wrong with it is said, and recall goes on without it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import pytest

from simonides import Damaged, Memory
from simonides.recall import weights
from simonides.recall.signals import SIGNALS

SHIPPED = resources.files("simonides.recall").joinpath(weights.FILE).read_bytes()


def changed(change: Callable[[Any], None]) -> bytes:
    content = json.loads(SHIPPED)
    change(content)
    return json.dumps(content).encode()


def _weigh(content: Any, name: str, *values: Any) -> None:
    content["late"]["weights"][name] = list(values)


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": SHIPPED[:-40],
    "no UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "without `plain`": changed(lambda content: content.pop("plain")),
    "without `made`": changed(lambda content: content.pop("made")),
    "without a level": changed(lambda content: content["late"].pop("level")),
    "without weights": changed(lambda content: content["plain"].update(weights={})),
    "a field too many": changed(lambda content: content.update(more=1)),
    "an unknown signal": changed(lambda content: _weigh(content, "mood", 1, 1, 1, 1)),
    "a weight below 0": changed(lambda content: _weigh(content, "near", 1, 1, -0.001, 1)),
    "a weight that is no number": changed(lambda content: _weigh(content, "near", 1, 1, math.nan, 1)),
    "a weight without end": changed(lambda content: _weigh(content, "near", 1, 1, math.inf, 1)),
    "a weight beyond all numbers": SHIPPED.replace(b'"scale":', b'"scale": 1e999, "x":', 1),
    "a weight too few": changed(lambda content: _weigh(content, "near", 1, 1, 1)),
    "a weight in words": changed(lambda content: _weigh(content, "near", 1, 1, "much", 1)),
    "all weights 0": changed(
        lambda content: content["late"].update(weights={name: [0, 0, 0, 0] for name in content["late"]["weights"]})
    ),
    "a level without end": changed(lambda content: content["late"].update(level=[-math.inf, 1, 1, 1])),
    "a scale of 0": changed(lambda content: content["plain"].update(scale=0)),
    "a scale below 0": changed(lambda content: content["plain"].update(scale=-1)),
}


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return what names another file of weights."""

    def use(path: str) -> None:
        monkeypatch.setattr(weights, "FILE", path)
        weights.fitted.cache_clear()

    yield use
    weights.fitted.cache_clear()


def test_the_weights_that_come_along_are_valid_and_say_how_they_were_made() -> None:
    found, note = weights.fitted()
    assert note is None and found == weights.read(SHIPPED)
    assert {"how", "date", "sets", "left out"} <= set(found.made)
    assert "bench/fit_weights.py" in found.made["how"]
    for kind in ("late", "plain"):
        assert set(found.made["left out"][kind]) == set(weights.COMPANY)
    for model in (found.late, found.plain):
        assert all(any(values[place] for values in model.weights.values()) for place in range(len(weights.COMPANY)))
    assert "late" not in found.plain.weights or not any(found.plain.weights["late"])


@pytest.mark.parametrize("what", BROKEN)
def test_weights_that_cannot_be_used_are_damaged(what: str) -> None:
    with pytest.raises(Damaged, match="the weights of recall"):
        weights.read(BROKEN[what])


def test_an_unknown_signal_is_named() -> None:
    with pytest.raises(Damaged, match="mood"):
        weights.read(BROKEN["an unknown signal"])


def test_equal_weights_are_valid_and_cover_what_does_not_cancel_out() -> None:
    equal = weights.equal()
    assert set(equal.late.weights) == set(SIGNALS) - {"long", "short"}
    assert {value for values in equal.late.weights.values() for value in values} == {1.0}
    assert equal.late.scale > 0


@pytest.mark.parametrize("what", ["absent", "a weight below 0", "no JSON"])
def test_recall_goes_on_with_equal_weights_and_says_so(what: str, shipped: Callable[[str], None], home: Any) -> None:
    if what != "absent":
        (home / "weights.json").write_bytes(BROKEN[what])
    shipped(str(home / "weights.json"))
    assert weights.fitted()[0] == weights.equal()
    with Memory(":memory:", embedder="hashing:") as memory:
        memory.remember(["I like tea", "The bridge is closed on Sundays", "My sister lives in Porto"])
        hits = memory.recall("when is the bridge closed?", explain=True)
    assert "bridge" in hits[0].text and hits[0].why
    assert any(note.startswith("ranked with equal weights") for note in hits.notes)
