"""`simonides mcp install`: our entry is in each client's own file, what else is there stays byte for byte."""

from __future__ import annotations

import json
import os
import stat
import string
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simonides.cli import main
from simonides.clients import CLIENTS, NAME, Change, Machine, change, reached, started, write
from simonides.commands.clients import carried, command
from simonides.errors import Conflict, Invalid

Run = Callable[..., Result]
KEY = "sk-harbour-lamp"
ENTRY = {"command": "/opt/simonides", "args": ["mcp", "--user", "marta"]}
OTHER = """\
{
    "theme": "dark",  "big": 12345678901234567890.50, "escaped": "\\u00e9",
    "mcpServers": {
        "other": {"command": "npx", "args": ["-y", "x"], "env": {"TOKEN": "t-0"}}
    },
    "last": [1,2,   3]
}
"""
OTHER_TOML = """\
# mine, with care
model = "o9"   # and this

[mcp_servers.other]
command = "npx"
env = { TOKEN = "t-0" }

# what follows belongs to the profile
[profiles.work]
model = "o8"
"""


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("XDG_CONFIG_HOME", "CODEX_HOME", "CLAUDE_CONFIG_DIR", "APPDATA", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, ("mcp", "install", *args))

    return run


def place(client: str) -> Path:
    return CLIENTS[client].place(Machine.this())


def entries(client: str, path: Path) -> Any:
    text = path.read_text("utf-8")
    return (tomllib.loads(text) if CLIENTS[client].toml else json.loads(text))[CLIENTS[client].table]


def other(client: str) -> str:
    return OTHER_TOML if CLIENTS[client].toml else OTHER.replace("mcpServers", CLIENTS[client].table)


def backups(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.bak-*"))


# -- where -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "platform", "expected"),
    [
        ("claude-desktop", "darwin", "Library/Application Support/Claude/claude_desktop_config.json"),
        ("claude-desktop", "win32", "AppData/Roaming/Claude/claude_desktop_config.json"),
        ("claude-desktop", "linux", ".config/Claude/claude_desktop_config.json"),
        *(("claude-code", platform, ".claude.json") for platform in ("darwin", "win32", "linux")),
        *(("cursor", platform, ".cursor/mcp.json") for platform in ("darwin", "win32", "linux")),
        ("vscode", "darwin", "Library/Application Support/Code/User/mcp.json"),
        ("vscode", "win32", "AppData/Roaming/Code/User/mcp.json"),
        ("vscode", "linux", ".config/Code/User/mcp.json"),
        *(("codex", platform, ".codex/config.toml") for platform in ("darwin", "win32", "linux")),
    ],
)
def test_each_client_has_its_place_on_each_platform(client: str, platform: str, expected: str, tmp_path: Path) -> None:
    assert CLIENTS[client].place(Machine(platform, tmp_path, {})) == tmp_path / expected


@pytest.mark.parametrize(
    ("client", "platform", "variable", "expected"),
    [
        ("claude-desktop", "win32", "APPDATA", "Claude/claude_desktop_config.json"),
        ("claude-desktop", "linux", "XDG_CONFIG_HOME", "Claude/claude_desktop_config.json"),
        ("claude-code", "linux", "CLAUDE_CONFIG_DIR", ".claude.json"),
        ("vscode", "linux", "XDG_CONFIG_HOME", "Code/User/mcp.json"),
        ("vscode", "win32", "APPDATA", "Code/User/mcp.json"),
        ("codex", "darwin", "CODEX_HOME", "config.toml"),
    ],
)
def test_a_variable_that_the_client_obeys_moves_its_place(
    client: str, platform: str, variable: str, expected: str, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    assert CLIENTS[client].place(Machine(platform, tmp_path, {variable: str(moved)})) == moved / expected


def test_claude_desktop_as_a_windows_package_reads_the_folder_of_its_package(tmp_path: Path) -> None:
    packed = tmp_path / "AppData/Local/Packages/Claude_pzs8sxrjxfjjc/LocalCache/Roaming/Claude"
    packed.mkdir(parents=True)
    place = CLIENTS["claude-desktop"].place
    assert place(Machine("win32", tmp_path, {})) == packed / "claude_desktop_config.json"
    assert place(Machine("linux", tmp_path, {})).is_relative_to(tmp_path / ".config")


# -- installing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_installing_makes_the_file_where_there_is_none_and_twice_changes_nothing(client: str, run: Run) -> None:
    first = run(client, "--user", "marta")
    assert first.exit_code == 0, first.stderr
    made = place(client).read_bytes()
    entry = entries(client, place(client))[NAME]
    assert entry["command"] == sys.executable and entry["args"][-3:] == ["mcp", "--user", "marta"]
    assert stat.S_IMODE(place(client).stat().st_mode) == 0o600
    again = run(client, "--user", "marta")
    assert again.exit_code == 0 and "Nothing to change" in again.stdout
    assert place(client).read_bytes() == made and backups(place(client)) == []


@pytest.mark.parametrize("client", CLIENTS)
def test_what_else_is_in_the_file_stays_and_a_copy_is_kept(client: str, run: Run) -> None:
    path = place(client)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(other(client))
    path.chmod(0o640)
    result = run(client)
    assert result.exit_code == 0, result.stderr
    [backup] = backups(path)
    assert backup.read_text() == other(client) and str(backup) in result.stderr
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(backup.stat().st_mode) == 0o640
    assert set(entries(client, path)) == {"other", NAME}
    left = path.read_text()
    for line in other(client).splitlines():
        assert line.rstrip() in left, line
    assert run(client, "--remove").exit_code == 0
    assert path.read_text() == other(client)
    assert len(backups(path)) == 2 and not list(path.parent.glob(f".{path.name}.*"))


@pytest.mark.parametrize("client", CLIENTS)
def test_an_entry_of_ours_is_replaced_in_its_place(client: str, run: Run) -> None:
    path = place(client)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(other(client))
    run(client, "--user", "marta")
    run(client, "--name", "work", "--user", "marta")
    run(client, "--user", "rui")
    found = entries(client, path)
    assert list(found) == ["other", NAME, "work"]
    assert found[NAME]["args"][-1] == "rui" and found["work"]["args"][-1] == "marta"


@pytest.mark.parametrize("client", CLIENTS)
def test_an_entry_that_somebody_wrote_in_another_way_is_the_same(client: str, run: Run) -> None:
    run(client)
    text = place(client).read_text()
    made = text.replace(" = ", "=") if CLIENTS[client].toml else json.dumps(json.loads(text))
    place(client).write_text(made)
    assert "Nothing to change" in run(client).stdout
    assert place(client).read_text() == made != text


@pytest.mark.parametrize("client", CLIENTS)
def test_a_dry_run_shows_the_difference_and_writes_nothing(client: str, run: Run) -> None:
    path = place(client)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(other(client))
    result = run(client, "--dry-run")
    assert result.exit_code == 0 and "+" in result.stdout and NAME in result.stdout
    assert path.read_text() == other(client) and backups(path) == []
    told = json.loads(run(client, "--dry-run", "--json").stdout)
    assert told["path"] == str(path) and not told["changed"] and NAME in told["diff"]


@pytest.mark.parametrize("client", CLIENTS)
def test_the_snippet_is_what_the_file_would_hold(client: str, run: Run) -> None:
    printed = run(client, "--print", "--user", "marta").stdout
    assert not place(client).exists()
    run(client, "--user", "marta")
    read = tomllib.loads(printed) if CLIENTS[client].toml else json.loads(printed)
    assert read[CLIENTS[client].table] == entries(client, place(client))


def test_removing_what_is_not_there_changes_nothing(run: Run) -> None:
    for client in CLIENTS:
        result = run(client, "--remove")
        assert result.exit_code == 0 and "Nothing to change" in result.stdout
        assert not place(client).exists()


@pytest.mark.parametrize(
    ("client", "text", "why"),
    [
        ("vscode", '{\n  // mine\n  "servers": {}\n}\n', "comments"),
        ("cursor", '{"mcpServers": {},}', "trailing commas"),
        ("cursor", '{"mcpServers": {}, "mcpServers": {}}', "twice"),
        ("cursor", '{"mcpServers": []}', "not an object"),
        ("cursor", "[]", "not an object"),
        ("codex", "mcp_servers = { a = { command = 'x' } }\n", "safely"),
        ("codex", "mcp_servers.simonides.command = 'x'\n", "safely"),
        ("codex", 'text = """\n[mcp_servers.simonides]\n"""\n[mcp_servers]\nsimonides.command = "x"\n', "safely"),
        ("codex", "a = \n", "not TOML"),
    ],
)
def test_a_file_that_cannot_be_changed_safely_is_left_alone_with_what_to_add(
    client: str, text: str, why: str, run: Run
) -> None:
    path = place(client)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    result = run(client)
    assert result.exit_code == 2 and why in result.stderr and "left alone" in result.stderr
    assert NAME in result.stdout and "mcp" in result.stdout
    assert path.read_text() == text and backups(path) == []


def test_a_file_under_a_link_is_written_where_it_lies(run: Run, home: Path) -> None:
    real = home / "dotfiles" / "mcp.json"
    real.parent.mkdir()
    real.write_text("{}")
    path = place("cursor")
    path.parent.mkdir()
    path.symlink_to(real)
    assert run("cursor").exit_code == 0
    assert path.is_symlink() and NAME in json.loads(real.read_text())["mcpServers"]


def test_what_somebody_else_wrote_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text("{}")
    made = change(CLIENTS["cursor"], path, NAME, ENTRY)
    path.write_text('{"mine": 1}')
    with pytest.raises(Conflict):
        write(made)
    assert path.read_text() == '{"mine": 1}'


def test_two_copies_of_the_same_second_have_two_names(tmp_path: Path) -> None:
    now = datetime(2026, 5, 2, 9, tzinfo=UTC)
    path = tmp_path / "mcp.json"
    path.write_text("a")
    first = write(Change(path=path, before="a", after="b"), now)
    second = write(Change(path=path, before="b", after="c"), now)
    assert first and second and first.name == "mcp.json.bak-20260502T090000Z"
    assert (first.read_text(), second.read_text(), path.read_text()) == ("a", "b", "c")


def test_a_name_that_would_need_quotes_is_refused(run: Run) -> None:
    assert run("cursor", "--name", "a.b c").exit_code == 2


# -- what the client is told -------------------------------------------------------------------------------------


def test_the_entry_starts_this_program_from_any_folder_whatever_lies_there(run: Run, home: Path) -> None:
    folder = home / "theirs"
    (folder / "simonides").mkdir(parents=True)
    (folder / "simonides" / "__init__.py").write_text("raise SystemExit('theirs')")
    (folder / "click.py").write_text("raise SystemExit('theirs')")
    run("cursor")
    entry = entries("cursor", place("cursor"))[NAME]
    told = [entry["command"], *entry["args"], "install", "--help"]
    ran = subprocess.run(told, cwd=folder, capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": ""})
    assert ran.returncode == 0 and "mcp install" in ran.stdout, ran.stdout + ran.stderr


def test_a_script_is_started_by_its_own_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = home / "simonides"
    monkeypatch.setattr(sys, "argv", [str(script), "mcp"])
    assert command()[0] == sys.executable
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert command() == [str(script)]


def test_paths_are_absolute_and_the_variables_of_the_memory_go_along(run: Run, home: Path) -> None:
    run("claude-code", "--store", "work.db", "--space", "team")
    entry = entries("claude-code", place("claude-code"))[NAME]
    assert entry["args"][-4:] == ["--store", f"sqlite:///{home}/work.db", "--space", "team"]
    assert entry["env"]["SIMONIDES_EMBEDDER"] == "none" and entry["env"]["SIMONIDES_HOME"] == str(home / "home")


@pytest.mark.parametrize(
    ("environ", "given", "expected"),
    [
        ({"SIMONIDES_STORE": "a.db"}, {}, {"SIMONIDES_STORE": "sqlite:///<here>/a.db"}),
        ({"SIMONIDES_URL": "sqlite:///a?durability=normal"}, {}, {"SIMONIDES_URL": "sqlite:///<here>/a?durability=normal"}),
        ({"SIMONIDES_STORE": "a.db", "SIMONIDES_URL": "a.db", "SIMONIDES_STORE_FILE": "x"}, {"store": "b.db"}, {}),
        ({"SIMONIDES_STORE_FILE": "secret"}, {}, {"SIMONIDES_STORE_FILE": "<here>/secret"}),
        ({"SIMONIDES_STORE": ":memory:"}, {}, {"SIMONIDES_STORE": ":memory:"}),
        ({"SIMONIDES_CONFIG": "c.toml"}, {}, {"SIMONIDES_CONFIG": "<here>/c.toml"}),
        ({"SIMONIDES_HOME": "~/h"}, {}, {"SIMONIDES_HOME": f"{Path.home()}/h"}),
        ({"SIMONIDES_UPSTREAM_KEY": "s", "SIMONIDES_PORT": "1", "PATH": "/bin", "SIMONIDES_USER": ""}, {}, {}),
    ],
)  # fmt: skip
def test_what_goes_along_is_the_memorys_and_no_more(
    environ: dict[str, str], given: dict[str, str], expected: dict[str, str], home: Path
) -> None:
    assert carried(environ, given) == {name: text.replace("<here>", str(home)) for name, text in expected.items()}


def test_a_server_over_http_is_reached_with_its_key_which_is_shown_nowhere(run: Run, home: Path) -> None:
    (home / "key").write_text(f"{KEY}\n")
    expected = {
        "claude-code": {"type": "http", "url": "https://m.example/mcp", "headers": {"Authorization": f"Bearer {KEY}"}},
        "cursor": {"url": "https://m.example/mcp", "headers": {"Authorization": f"Bearer {KEY}"}},
        "vscode": {"type": "http", "url": "https://m.example/mcp", "headers": {"Authorization": f"Bearer {KEY}"}},
        "codex": {"url": "https://m.example/mcp", "http_headers": {"Authorization": f"Bearer {KEY}"}},
    }
    for client, entry in expected.items():
        given = (client, "--url", "https://m.example", "--key-file", str(home / "key"))
        said = [run(*given, *more) for more in (("--print",), ("--dry-run",), (), ("--dry-run", "--json"))]
        assert [each.exit_code for each in said] == [0] * 4, said[0].stderr
        assert entries(client, place(client))[NAME] == entry
        said += [run(client, "--dry-run"), run(client, "--remove", "--dry-run")]
        assert not [each for each in said if KEY in each.output]
        assert stat.S_IMODE(place(client).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("claude-desktop", "--url", "https://m.example"), "connectors"),
        (("cursor", "--url", "m.example"), "http://"),
        (("cursor", "--url", "https://m.example", "--user", "marta"), "--user"),
        (("cursor", "--url", "https://m.example", "--key-file", "none"), "cannot be read"),
        (("cursor", "--url", "https://m.example", "--key-file", "two"), "does not hold a key"),
        (("cursor", "--key-file", "two"), "--url"),
    ],
)
def test_what_a_client_cannot_be_told_is_refused(args: tuple[str, ...], why: str, run: Run, home: Path) -> None:
    (home / "two").write_text("one key\nanother")
    result = run(*args)
    assert result.exit_code in (2, 5) and why in result.stderr
    assert not place("cursor").exists()


def test_a_key_sent_in_the_clear_is_remarked_beyond_this_machine(run: Run, home: Path) -> None:
    (home / "key").write_text(KEY)
    asked = ("cursor", "--key-file", str(home / "key"), "--url")
    assert "without TLS" in run(*asked, "http://m.example:40020").stderr
    assert "without TLS" not in run(*asked, "http://127.0.0.1:40020").stderr


def test_without_the_extra_speaking_mcp_says_what_to_install(home: Path) -> None:
    code = "import sys; sys.modules['mcp'] = None; from simonides.cli import main; main(['mcp'])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, input="")
    assert ran.returncode == 5 and "simonides[serve]" in ran.stderr and ran.stdout == ""


# -- every byte of others ----------------------------------------------------------------------------------------

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=8), inside, max_size=3)
)
NAMES = st.text(string.ascii_letters + 'é"\\ {}/', max_size=8)


@relaxed
@given(
    top=st.dictionaries(NAMES, VALUES, max_size=4),
    servers=st.none() | st.dictionaries(NAMES, VALUES, max_size=4),
    indent=st.sampled_from([None, 0, 1, 2, 4, "\t"]),
    crlf=st.booleans(),
    mark=st.booleans(),
    ascii=st.booleans(),
)
def test_whatever_json_is_there_stays_as_it_is(
    top: dict[str, Any],
    servers: dict[str, Any] | None,
    indent: int | str | None,
    crlf: bool,
    mark: bool,
    ascii: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    held = {**top, **({} if servers is None else {"mcpServers": servers})}
    text = json.dumps(held, indent=indent, ensure_ascii=ascii).replace("\n", "\r\n" if crlf else "\n")
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes((("\ufeff" if mark else "") + text).encode("utf-8", "surrogatepass"))
    client = CLIENTS["cursor"]
    try:
        installed = change(client, path, NAME, ENTRY)
    except Invalid:
        assert any("\ud800" <= character <= "\udfff" for character in text)
        return
    assert json.loads(installed.after.removeprefix("\ufeff")) == {
        **held,
        "mcpServers": {**(servers or {}), NAME: ENTRY},
    }
    write(installed)
    assert not change(client, path, NAME, ENTRY).needed
    assert change(client, path, NAME, {"command": "x"}).after.count('"command": "x"') >= 1
    removed = change(client, path, NAME, None)
    before = (installed.before or "").removeprefix("\ufeff")
    if servers and NAME not in servers:
        assert removed.after == installed.before, "byte for byte"
    elif servers is None:
        assert json.loads(removed.after.removeprefix("\ufeff")) == {**held, "mcpServers": {}}
    else:
        assert json.loads(removed.after.removeprefix("\ufeff")) == json.loads(before)


@relaxed
@given(
    above=st.sampled_from(["", "# mine\n", "a = 1\n", 'a = 1 # x\n\n[b]\nc = "[mcp_servers.simonides]"\n', "a = 1"]),
    below=st.sampled_from(["", "[z]\n", "\n# of z\n[z]\nq = [\n  1,\n]\n", "[mcp_servers.other]\ncommand = 'x'\n"]),
    args=st.lists(st.text(max_size=12), max_size=3),
    crlf=st.booleans(),
)
def test_whatever_toml_is_there_stays_as_it_is(
    above: str, below: str, args: list[str], crlf: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    text = f"{above.rstrip()}\n{below}" if below else above
    path.write_bytes((text.replace("\n", "\r\n") if crlf else text).encode())
    client = CLIENTS["codex"]
    entry = {"command": "/opt/s", "args": args, "env": {"A": "b"}}
    if any("\ud800" <= character <= "\udfff" for character in "".join(args)):
        return
    installed = change(client, path, NAME, entry)
    before, after = tomllib.loads(installed.before or ""), tomllib.loads(installed.after)
    assert after["mcp_servers"][NAME] == entry
    assert {**after, "mcp_servers": {k: v for k, v in after["mcp_servers"].items() if k != NAME}} == {
        "mcp_servers": {},
        **before,
    }
    assert installed.after.startswith(installed.before or "")
    write(installed)
    assert not change(client, path, NAME, entry).needed
    removed = change(client, path, NAME, None)
    assert tomllib.loads(removed.after) == before
    assert removed.after.rstrip() == (installed.before or "").rstrip()


def test_entries_are_what_the_clients_documentation_shows() -> None:
    line, variables = ["/opt/simonides", "mcp"], {"SIMONIDES_USER": "marta"}
    plain = {"command": "/opt/simonides", "args": ["mcp"], "env": variables}
    for name, client in CLIENTS.items():
        typed = {"type": "stdio", **plain} if name in ("claude-code", "vscode") else plain
        assert started(client, line, variables) == typed
    assert reached(CLIENTS["cursor"], "http://127.0.0.1:40020/mcp", "") == {"url": "http://127.0.0.1:40020/mcp"}
