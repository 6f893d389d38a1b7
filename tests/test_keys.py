"""Keys, as they are made: what is taken for a grant, and `simonides keys`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from common import DAY, JUNE, refused

from simonides import Invalid, config
from simonides.access import Permit
from simonides.cli import main
from simonides.directory import Directory, Key, id_in, issue
from simonides.keys import RATE_MAX, grant_of
from simonides.testing.directories import BOUND

Run = Callable[..., Result]
ESC = "\x1b"


# -- grants ------------------------------------------------------------------------------------------------------


def test_a_grant_is_narrowed_to_our_types() -> None:
    grant = grant_of("laptop", tenant="acme", at=JUNE, spaces="team, main", user="ana", permits="READ, erase", rate=60)
    assert (grant.name, grant.tenant, grant.user, grant.rate) == ("laptop", "acme", "ana", 60)
    assert grant.spaces == frozenset({"team", "main"})
    assert grant.permits == Permit.READ | Permit.ERASE
    same = grant_of("laptop", tenant="acme", at=JUNE, spaces=["main", "team"], user="ana", permits=["erase", "read"])
    assert (same.spaces, same.permits) == (grant.spaces, grant.permits)


def test_a_key_that_says_nothing_may_read_and_write_in_its_tenant() -> None:
    grant = grant_of("laptop", tenant="acme", at=JUNE)
    assert grant.permits == Permit.READ | Permit.WRITE
    assert (grant.spaces, grant.user, grant.expires, grant.rate) == (None, None, None, None)


@pytest.mark.parametrize(
    ("given", "expires"),
    [
        ("90d", JUNE + 90 * DAY),
        (" 12h ", JUNE + DAY / 2),
        ("2w", JUNE + 14 * DAY),
        ("1y", JUNE + 365 * DAY),
        ("2026-06-02", datetime(2026, 6, 2, tzinfo=UTC)),
        ("2026-06-01T11:00:00+01:00", JUNE + timedelta(hours=1)),
        (JUNE + DAY, JUNE + DAY),
    ],
)
def test_a_key_expires_at_a_time_or_after_a_time(given: Any, expires: datetime) -> None:
    assert grant_of("laptop", tenant="acme", at=JUNE, expires=given).expires == expires


@pytest.mark.parametrize(
    "wrong",
    [
        *({"name": name} for name in ("", " ", "*", None, 7, "a" * 201, "a\nb", f"{ESC}[2J")),
        *({"tenant": tenant} for tenant in ("", "%", None)),
        *({"user": user} for user in ("", "*", 7, "\0")),
        *({"spaces": spaces} for spaces in ("", [], "main,", ["*"], [None], 7, "a,,b", [["main"]], {"a": 1})),
        *({"permits": permits} for permits in ("", [], "fly", "read,", ["read", ""], [1], 7, None)),
        *({"rate": rate} for rate in (0, -1, True, "5", 1.5, RATE_MAX + 1)),
        *({"expires": expires} for expires in ("0d", "90", "-1d", "soon", "2026-06-01", JUNE, "999999y", 5, "")),
        {"expires": "2027-01-01T00:00:00"},  # of which zone?
    ],
    ids=str,
)
def test_what_is_no_grant_is_refused(wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"name": "laptop", "tenant": "acme", "at": JUNE, **wrong}
    assert isinstance(refused(grant_of, given.pop("name"), **given), Invalid)


def test_a_secret_has_256_bits_and_names_its_key() -> None:
    made = [issue(BOUND, JUNE) for _ in range(20)]
    drawn = [secret.removeprefix(f"sim_{key.id}_") for key, secret in made]
    assert all(id_in(secret) == key.id for key, secret in made)
    assert all(len(each) == 43 and each.isalnum() and each.isascii() for each in drawn)
    assert len(set("".join(drawn))) > 55  # of 62: each of 860 letters is drawn from all of them
    assert not any(secret in repr(key) or secret[-43:] in repr(key) for key, secret in made)


# -- on the command line -----------------------------------------------------------------------------------------


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SIMONIDES_STORE", str(home / "me.db"))
    monkeypatch.setenv("COLUMNS", "120")

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, args)

    return run


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def held(secret: str, home: Path) -> Key | None:
    async def find() -> Key | None:
        directory: Directory = config.open_backend("directories", f"sqlite:///{home / 'me.db-keys'}")
        try:
            return await directory.find(secret)
        finally:
            await directory.close()

    return asyncio.run(find())


def test_a_key_is_made_and_its_secret_alone_is_on_stdout(run: Run, home: Path) -> None:
    made = run("keys", "create", "laptop", "--user", "ana", "--spaces", "main,team", "--tenant", "acme",
               "--permits", "read,erase", "--expires", "90d", "--rate", "600")  # fmt: skip
    assert made.exit_code == 0
    key = held(made.stdout.removesuffix("\n"), home)
    assert key is not None and key.expires is not None
    assert (key.name, key.tenant, key.user, key.rate) == ("laptop", "acme", "ana", 600)
    assert (key.spaces, key.permits) == (frozenset({"main", "team"}), Permit.READ | Permit.ERASE)
    assert abs(key.expires - key.made - 90 * DAY) < timedelta(minutes=1)
    assert "acme" in made.stderr and "ana" in made.stderr and "once" in made.stderr
    assert made.stdout.strip() not in made.stderr
    assert run("keys", "create", "quiet", "-q").stderr == ""


def test_keys_go_where_the_settings_say_that_the_server_looks(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMONIDES_DIRECTORY", str(home / "elsewhere.db"))
    secret = run("keys", "create", "laptop").stdout.strip()
    assert (home / "elsewhere.db").exists() and "laptop" in run("keys", "list").stdout
    monkeypatch.delenv("SIMONIDES_DIRECTORY")
    assert "laptop" not in run("keys", "list").stdout and secret


def test_how_long_is_offered_where_a_time_is_wrong(run: Run) -> None:
    wrong = run("keys", "create", "laptop", "--expires", "1m")
    assert wrong.exit_code == 2 and "ISO 8601" in wrong.stderr and "90d" in wrong.stderr


def test_a_key_is_bound_to_a_user_or_a_space_only_where_one_is_named(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMONIDES_USER", "marta")
    monkeypatch.setenv("SIMONIDES_TENANT", "acme")
    key = answer(run("keys", "create", "laptop", "--json"))
    assert (key["user"], key["spaces"], key["tenant"], key["permits"]) == (None, None, "acme", ["read", "write"])
    assert answer(run("keys", "create", "laptop", "--space", "team", "--json"))["spaces"] == ["team"]
    assert run("keys", "create", "laptop", "--space", "team", "--spaces", "main").exit_code == 2


def test_in_json_the_secret_is_a_field_and_never_there_again(run: Run, home: Path) -> None:
    made = answer(run("keys", "create", "laptop", "--json"))
    [listed] = answer(run("keys", "list", "--json"))
    assert id_in(made.pop("secret")) == made["id"]
    assert listed == made and listed["state"] == "open"


def test_a_key_is_revoked_by_an_end_of_its_id(run: Run, home: Path) -> None:
    secrets = [run("keys", "create", name, "-q").stdout.strip() for name in ("one", "two", "three")]
    first, second, third = map(id_in, secrets)
    assert run("keys", "revoke", first[-5:], second).exit_code == 0
    assert [key["state"] for key in answer(run("keys", "list", "--json"))] == ["revoked", "revoked", "open"]
    key = held(secrets[0], home)
    assert key is not None and key.closed(datetime.now(UTC)) == "revoked"
    assert run("keys", "revoke", third[:3]).exit_code == 3  # too short to be meant
    assert run("keys", "revoke", third, "nobody").exit_code == 3
    assert answer(run("keys", "list", "--json"))[2]["state"] == "open"  # all of them, or none
    assert [key["id"] for key in answer(run("keys", "revoke", third, third, "--json"))] == [third]


def test_a_key_is_revoked_by_a_name_that_only_one_open_key_bears(run: Run, home: Path) -> None:
    first = run("keys", "create", "laptop", "-q").stdout
    assert run("keys", "revoke", "laptop").exit_code == 0
    second = run("keys", "create", "laptop", "-q").stdout
    assert answer(run("keys", "revoke", "laptop", "--json"))[0]["id"] == id_in(second.strip())
    assert run("keys", "revoke", "laptop").exit_code == 3  # none that is open
    run("keys", "create", "laptop"), run("keys", "create", "laptop")
    twice = run("keys", "revoke", "laptop")
    assert twice.exit_code == 2 and id_in(first.strip()) not in twice.stderr


def test_a_tenant_named_is_the_only_one_looked_at(run: Run, home: Path) -> None:
    theirs = answer(run("keys", "create", "theirs", "--tenant", "other", "--json"))["id"]
    ours = answer(run("keys", "create", "ours", "--json"))["id"]
    assert [key["id"] for key in answer(run("keys", "list", "--json"))] == [theirs, ours]
    assert [key["id"] for key in answer(run("keys", "list", "--tenant", "other", "--json"))] == [theirs]
    assert run("keys", "revoke", ours, "--tenant", "other").exit_code == 3


def test_asking_makes_no_file(run: Run, home: Path) -> None:
    assert run("keys", "list").exit_code == 1
    assert json.loads(run("keys", "list", "--json").stdout) == []
    assert run("keys", "revoke", "nobody").exit_code == 3
    assert run("keys", "create", "*").exit_code == run("keys", "create", "x", "--expires", "2001-01-01").exit_code == 2
    assert list(home.glob("*keys*")) == []


def test_the_list_says_what_each_opens_and_no_name_steers_a_terminal(run: Run, home: Path) -> None:
    run("keys", "create", "evil\u202e\u2028", "--user", "a\u009b2J", "--spaces", "team")
    shown = run("keys", "list")
    assert shown.exit_code == 0
    assert not {"\u202e", "\u2028", "\u009b", ESC} & set(shown.stdout)
    assert "space team" in " ".join(shown.stdout.split())


@pytest.mark.parametrize("path", [("keys",), ("keys", "create"), ("keys", "list"), ("keys", "revoke")], ids=" ".join)
def test_every_command_about_keys_has_help_with_an_example(run: Run, path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0 and "\n  simonides keys" in result.stdout


def test_making_a_key_needs_nothing_of_a_server(home: Path) -> None:
    code = (
        "import sys; from simonides.cli import main\n"
        "try: main(['keys', 'create', 'laptop'])\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({'fastapi', 'starlette', 'pydantic', 'numpy', 'limits', 'mcp', 'grpc'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines()[1] == "[]", ran.stderr


def test_keys_are_made_and_listed_in_a_directory_that_is_named(home: Path) -> None:
    there = home / "elsewhere.db"
    for words in (["--directory", str(there), "create", "a"], ["create", "b", "--directory", f"sqlite:///{there}"]):
        assert CliRunner().invoke(main, ["keys", *words]).exit_code == 0
    listed = CliRunner().invoke(main, ["keys", "list", "--json", "--directory", str(there)])
    assert [key["name"] for key in json.loads(listed.stdout)] == ["a", "b"]
    assert CliRunner().invoke(main, ["keys", "list"]).exit_code == 1
