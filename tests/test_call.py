"""`simonides call`: any operation of the table, here or at a server, with the same answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from test_journeys import Served, served  # noqa: F401

from simonides.api import OPERATIONS
from simonides.cli import main


@pytest.fixture
def call(home: Path) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["call", *arguments, "--embedder", "hashing:", "--quiet"])

    return run


def said(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_every_operation_is_listed_with_what_it_does(call: Callable[..., Result]) -> None:
    assert said(call("--json")) == {name: row.does for name, row in OPERATIONS.items()}


def test_arguments_come_as_json_or_by_name(call: Callable[..., Result]) -> None:
    kept = said(call("remember", '{"content": "I like tea", "labels": ["drink"]}', "--user", "ana"))
    assert kept["results"][0]["scope"]["user"] == "ana"
    found = said(call("find", 'labels=["drink"]', "user=ana", "limit=5"))
    assert [each["text"] for each in found["results"]] == ["I like tea"]
    assert said(call("remember", "content=12 o'clock"))["results"][0]["text"] == "12 o'clock"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["remembre"], "did you mean 'remember'"),
        (["recall", "text"], "name=value"),
        (["recall", "text=x", "bogus=1"], "bogus"),
        (["recall", "{"], "JSON"),
    ],
)
def test_what_is_wrong_is_said(call: Callable[..., Result], arguments: list[str], says: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_server_answers_as_the_memory_here(
    call: Callable[..., Result],
    served: Callable[[], Served],  # noqa: F811
) -> None:
    url = served().url
    for each in ([], ["--url", url]):
        said(call("remember", "content=I like tea", "id=tea", *each))
        record = said(call("get", "id=tea", *each))
        assert record["text"] == "I like tea"
        assert said(call("count", *each)) == {"count": 1}
    assert call("get", "id=none", "--url", url).exit_code == 3
