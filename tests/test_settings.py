"""The settings: one model for flags, environment and file; what cannot be is refused with where it was given."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from simonides import Memory, config
from simonides.cli import main
from simonides.config import Settings, serving, settings
from simonides.errors import Invalid, Unavailable
from simonides.flags import serving_flags
from simonides.serving import HIDDEN, Serving, about, changed, hide, told
from simonides.sources import read_file, written

Run = Callable[..., Result]
SECRET = "sk-harbour-lamp"
FIELDS = {field.name: field for field in dataclasses.fields(Serving)}


@pytest.fixture
def run(home: Path) -> Run:
    return lambda *args: CliRunner().invoke(main, args)


@pytest.fixture
def file(home: Path) -> Path:
    return home / "config.toml"


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(Invalid) as caught:
        call()
    return caught.value.message


# -- what a server is told ---------------------------------------------------------------------------------------


def test_the_defaults_listen_on_this_machine_alone_and_ask_for_no_key() -> None:
    told = Serving()
    assert (told.host, told.port, told.loopback, told.keys_asked) == ("127.0.0.1", 40020, True, False)
    assert Serving(require_key=True).keys_asked


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_this_machine_is_known_by_its_names(host: str) -> None:
    assert not Serving(host=host).keys_asked


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example.com", "127.0.0.1.nip.io", "::2"])
def test_beyond_this_machine_keys_are_asked_for(host: str) -> None:
    assert Serving(host=host).keys_asked


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("port", value) for value in (-1, 65536, True, "80", 1.5, None)),
        *(("rate", value) for value in (-1, 0.5, True)),
        *(("batch_max", value) for value in (0, 10_001)),
        *(("seconds_max", value) for value in (0, -1, float("nan"), float("inf"), "1")),
        *(("host", value) for value in ("", "a b", "a\nb", 1)),
        *(("require_key", value) for value in (0, 1, "true", None)),
        *(("log", value) for value in ("xml", "")),
        *(("log_level", value) for value in ("loud", "INFO")),
        *(("upstream", value) for value in ("api.openai.com", "ftp://x", "http://", "http://x:port", "http://[")),
        *(("cors_origins", value) for value in ("*", ("https://a/b",), ("a",), ("https://u@a",), ["*"], ("",))),
        ("upstream_key", "two\nlines"),
        ("allowed_hosts", ("a\x7f",)),
    ],
)
def test_what_a_setting_cannot_be_is_refused_by_name(name: str, value: Any) -> None:
    assert refused(lambda: Serving(**{name: value})).startswith(f"{name} must be ")


def test_every_setting_says_what_it_means_in_one_line() -> None:
    for made in (Serving, Settings):
        for field in dataclasses.fields(made):
            meaning = about(field).meaning
            assert meaning and "\n" not in meaning and not meaning.endswith("."), field.name


def test_what_changed_says_what_needs_a_restart() -> None:
    old = Serving()
    assert changed(old, old) == ((), ())
    new = dataclasses.replace(old, port=1, rate=5, host="::1", log_level="debug", upstream_key=SECRET)
    assert changed(old, new) == (("rate", "upstream_key", "log_level"), ("host", "port"))
    taken = "rate log_level cors_origins upstream upstream_key proxy_budget batch_max seconds_max body_mb_max"
    assert all(about(FIELDS[name]).reload for name in taken.split())
    assert not any(about(FIELDS[name]).reload for name in "host port grpc_port directory connections_max".split())


# -- sources -----------------------------------------------------------------------------------------------------


def test_a_flag_counts_before_the_environment_and_that_before_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("user = 'ana'\n[server]\nport = 1\nrate = 1\nbatch_max = 1\n")
    monkeypatch.setenv("SIMONIDES_PORT", "2")
    monkeypatch.setenv("SIMONIDES_RATE", "2")
    told = serving({"port": "3", "host": None})
    assert (told.port, told.rate, told.batch_max, told.host) == (3, 2, 1, "127.0.0.1")
    assert settings().user == "ana"
    assert settings({"user": "rui"}).user == "rui"


@pytest.mark.parametrize("text", ["0", "false", "no", "off", "False", " OFF "])
@pytest.mark.parametrize("name", ["SIMONIDES_REQUIRE_KEY", "SIMONIDES_METRICS"])
def test_false_is_false(name: str, text: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, text)
    assert getattr(serving(), name.removeprefix("SIMONIDES_").lower()) is False


@pytest.mark.parametrize("text", ["1", "true", "yes", "on", "True", " ON\n"])
def test_true_is_true(text: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMONIDES_REQUIRE_KEY", text)
    assert serving().require_key is True


def test_texts_become_what_the_setting_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "PORT": " 8080 ",
        "SECONDS_MAX": "2.5",
        "DRAIN_SECONDS": "0",
        "CORS_ORIGINS": "https://a.example, http://b.example:8080,\n",
        "LOG_LEVEL": "WARNING",
        "UPSTREAM_KEY": SECRET,
    }
    for name, text in given.items():
        monkeypatch.setenv(f"SIMONIDES_{name}", text)
    told = serving()
    assert (told.port, told.seconds_max, told.drain_seconds, told.log_level) == (8080, 2.5, 0.0, "warning")
    assert told.cors_origins == ("https://a.example", "http://b.example:8080")
    assert told.upstream_key == SECRET


def test_the_file_takes_what_toml_has(file: Path) -> None:
    file.write_text(
        'server.port = 8080\nserver.require_key = true\nserver.cors_origins = ["*"]\nserver.idle_seconds = 5'
    )
    told = serving()
    assert (told.port, told.require_key, told.cors_origins, told.idle_seconds) == (8080, True, ("*",), 5.0)


@pytest.mark.parametrize("name", ["port", "seconds_max", "metrics", "log", "cors_origins", "upstream"])
def test_a_value_that_cannot_be_is_refused_with_where_it_was_given(
    name: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(lambda: serving({name: "?!"})).endswith(f"not {_seen(name)} (--{name.replace('_', '-')})")
    file.write_text(f"# mine\n\n[server]\nrate = 1\n{name} = '?!'\n")
    assert f"({file}, line 5)" in refused(serving)
    monkeypatch.setenv(f"SIMONIDES_{name.upper()}", "?!")
    assert f"(SIMONIDES_{name.upper()})" in refused(serving)


def _seen(name: str) -> str:
    return "('?!',)" if name == "cors_origins" else "'?!'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prot = 1\n", "line 1: there is no setting 'prot'"),
        ("usr = 'a'\n", "did you mean 'user'"),
        ("[server]\n\nprot = 1\n", "line 3: there is no setting 'server.prot' (did you mean 'port'?)"),
        ("port = 1\n", "it belongs below a line [server]"),
        ("[server]\nuser = 'a'\n", "it belongs above the first line in brackets"),
        ("server = 1\n", "server must be a table"),
        ("[sever]\nport = 1\n", "there is no setting 'sever'"),
        ("user = 1\n", "user must be a text"),
        ("[server]\nport = [1]\n", "port must be a whole number"),
        ("[server]\nupstream_key_file = 1\n", "must be the path of a file"),
    ],
)
def test_what_the_file_cannot_say_is_refused(text: str, expected: str, file: Path) -> None:
    file.write_text(text)
    assert expected in refused(lambda: (settings(), serving()))


def test_a_variable_that_is_no_setting_is_refused_with_what_it_might_have_been(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMONIDES_UPSTREM_KEY", SECRET)
    for call in (settings, serving, lambda: Memory(":memory:")):
        message = refused(call)
        assert "SIMONIDES_UPSTREM_KEY" in message and "'SIMONIDES_UPSTREAM_KEY'" in message and SECRET not in message


def test_variables_that_are_no_settings_but_ours_are_let_be(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SIMONIDES_KEY", "SIMONIDES_TEST_SLOW", "SIMONIDES_MODEL_SOURCE"):
        monkeypatch.setenv(name, "x")
    assert serving() == Serving()


def test_what_kubernetes_and_docker_set_for_a_service_of_this_name_is_no_setting(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "SIMONIDES_PORT": "tcp://10.96.0.12:40020",
        "SIMONIDES_SERVICE_HOST": "10.96.0.12",
        "SIMONIDES_SERVICE_PORT": "40020",
        "SIMONIDES_SERVICE_PORT_HTTP": "40020",
        "SIMONIDES_PORT_40020_TCP": "tcp://10.96.0.12:40020",
        "SIMONIDES_PORT_40020_TCP_ADDR": "10.96.0.12",
        "SIMONIDES_PORT_40020_TCP_PROTO": "tcp",
        "SIMONIDES_DB_SERVICE_HOST": "10.96.0.13",
        "SIMONIDES_DB_PORT": "tcp://10.96.0.13:5432",
    }.items():
        monkeypatch.setenv(name, text)
    assert serving() == Serving()


def test_the_store_has_two_variables_which_must_agree(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMONIDES_URL", "sqlite:///a.db")
    assert settings().store == "sqlite:///a.db"
    monkeypatch.setenv("SIMONIDES_STORE", "sqlite:///a.db")
    assert settings().store == "sqlite:///a.db"
    monkeypatch.setenv("SIMONIDES_STORE", "sqlite:///b.db")
    assert "SIMONIDES_STORE and SIMONIDES_URL differ" in refused(settings)
    assert settings({"store": "c.db"}).store == "c.db"


# -- values in files ---------------------------------------------------------------------------------------------


@pytest.fixture
def secret(home: Path) -> Path:
    path = home / "secret"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


def test_a_value_may_be_in_a_file_of_its_own(file: Path, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert serving({"upstream_key_file": str(secret)}).upstream_key == SECRET
    file.write_text("[server]\nupstream_key_file = 'secret'\n")  # relative to the file that says so
    monkeypatch.chdir(secret.parent.parent)
    assert serving().upstream_key == SECRET
    other = secret.with_name("other")
    other.write_text("sk-2\r\n")
    other.chmod(0o600)
    monkeypatch.setenv("SIMONIDES_UPSTREAM_KEY_FILE", str(other))
    assert serving().upstream_key == "sk-2"
    assert config.watched() == (file, other)


def test_any_setting_may_be_in_a_file_and_loses_one_newline_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "port").write_text("8080\n")
    (home / "store").write_text("sqlite:///a.db\n")
    monkeypatch.setenv("SIMONIDES_PORT_FILE", str(home / "port"))
    monkeypatch.setenv("SIMONIDES_URL_FILE", str(home / "store"))
    assert (serving().port, settings().store) == (8080, "sqlite:///a.db")
    (home / "store").write_text("sqlite:///a.db\n\n")
    assert "control characters" in refused(settings)


def test_both_forms_at_once_are_refused(file: Path, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "are both given" in refused(lambda: serving({"upstream_key": "a", "upstream_key_file": str(secret)}))
    file.write_text("[server]\nupstream_key = 'a'\nupstream_key_file = 'secret'\n")
    assert "upstream_key and upstream_key_file are both given" in refused(serving)
    monkeypatch.setenv("SIMONIDES_UPSTREAM_KEY", SECRET)
    monkeypatch.setenv("SIMONIDES_UPSTREAM_KEY_FILE", str(secret))
    message = refused(serving)
    assert "SIMONIDES_UPSTREAM_KEY and SIMONIDES_UPSTREAM_KEY_FILE" in message and SECRET not in message


def test_a_file_that_holds_no_value_is_refused_by_the_name_of_who_named_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "secret"
    monkeypatch.setenv("SIMONIDES_UPSTREAM_KEY_FILE", str(path))
    with pytest.raises(Unavailable, match=f"SIMONIDES_UPSTREAM_KEY_FILE: {path} cannot be read: No such file"):
        serving()
    for content in (b"", b"\n", b"\xff\xfe", b"x" * 70_000, b"two\nlines\n"):
        path.write_bytes(content)
        assert "SIMONIDES_UPSTREAM_KEY_FILE" in refused(serving)


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_secret_that_everybody_may_read_is_remarked(
    secret: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SIMONIDES_UPSTREAM_KEY_FILE", str(secret))
    assert serving().upstream_key == SECRET and not caplog.records
    secret.chmod(0o644)
    assert serving().upstream_key == SECRET
    assert str(secret) in caplog.text and SECRET not in caplog.text


# -- secrets -----------------------------------------------------------------------------------------------------


def test_a_secret_is_in_no_repr_and_no_answer(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMONIDES_UPSTREAM_KEY", SECRET)
    monkeypatch.setenv("SIMONIDES_UPSTREAM", f"https://me:{SECRET}@api.example/v1")
    monkeypatch.setenv("SIMONIDES_STORE", f"postgresql://me:{SECRET}@db.example/memory")
    texts = [repr(serving()), str(serving()), repr(settings()), f"{settings()}"]
    texts += [run("config").output, run("config", "--json").output, run("config", "check").output]
    assert not [text for text in texts if SECRET in text]
    assert HIDDEN in texts[0] and "api.example" in texts[0] and "db.example" in texts[2]
    monkeypatch.setenv("SIMONIDES_UPSTREAM_KEY", f"{SECRET}\n\n{SECRET}")
    monkeypatch.setenv("SIMONIDES_UPSTREAM", f"httpx://me:{SECRET}@api.example/v1")
    assert SECRET not in refused(serving) and SECRET not in refused(lambda: serving({"upstream_key": ""}))
    checked = run("config", "check")
    assert checked.exit_code == 1 and SECRET not in checked.output and len(checked.stdout.splitlines()) >= 2


@given(st.text(st.characters(exclude_characters="/", codec="utf-8")))
def test_no_password_of_a_url_is_shown(password: str) -> None:
    assert hide(f"https://me:{password}@host/path?x=1") == f"https://me:{HIDDEN}@host/path?x=1"


def test_a_password_with_a_slash_is_hidden_and_a_port_is_not() -> None:
    assert hide("https://me:a/b@host") == f"https://me:{HIDDEN}@host"
    for plain in ("http://host:80/a@b", "sqlite:////data/a:b@c/m.db", "memory:", "https://host/a:b"):
        assert hide(plain) == plain


def test_what_has_no_value_is_not_shown_as_if_it_had() -> None:
    assert told(FIELDS["upstream_key"], "") == "" and told(FIELDS["upstream_key"], "a") == HIDDEN


# -- the commands ------------------------------------------------------------------------------------------------


def test_config_shows_the_servers_settings_and_where_they_come_from(
    run: Run, file: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("[server]\nport = 8080\nupstream_key_file = 'secret'\n")
    monkeypatch.setenv("SIMONIDES_METRICS", "off")
    rows = {row["name"]: row for row in json.loads(run("config", "--json").stdout)}
    assert (rows["server.port"]["value"], rows["server.port"]["from"]) == (8080, str(file))
    assert (rows["server.metrics"]["value"], rows["server.metrics"]["from"]) == (False, "SIMONIDES_METRICS")
    assert (rows["server.upstream_key"]["value"], rows["server.upstream_key"]["from"]) == (HIDDEN, str(file))
    assert rows["server.rate"]["from"] == "default"
    assert len(rows) == len(dataclasses.fields(Settings)) + len(dataclasses.fields(Serving))
    assert "server.port" in run("config").stdout


def test_sound_settings_are_said_to_be(run: Run, home: Path) -> None:
    assert run("config", "check").stdout == "The settings are sound.\n"
    assert json.loads(run("config", "check", "--json").stdout) == {"sound": True, "complaints": []}


def test_everything_that_is_wrong_is_said_at_once(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("usr = 'a'\n[server]\nport = 70000\nlog = 'xml'\nupstream = 'x'\nupstream_key_file = 'none'\n")
    monkeypatch.setenv("SIMONIDES_RATE", "many")
    result = run("config", "check")
    assert result.exit_code == 1
    for said in ("'usr'", "port must", "log must", "upstream must", "none cannot be read", "rate must"):
        assert said in result.stdout, said
    told = json.loads(run("config", "check", "--json").stdout)
    assert not told["sound"] and len(told["complaints"]) == 6 == len(result.stdout.splitlines())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("store", "mysql:///x", "no 'mysql' in stores"),
        ("index", "flt:", "did you mean 'flat'"),
        ("embedder", "locl:", "did you mean 'local'"),
        ("embedder", "hashing:?size=9", "not an option"),
        ("zone", "Lisbon", "IANA"),
        ("require", "everything", "no level"),
        ("user", "*", "wildcard"),
        ("store", "sqlite:///config.toml/x.db", "is no folder"),
        ("store", "sqlite:///folder", "is a folder"),
    ],
)
def test_what_a_setting_names_must_be_there(
    name: str, value: str, said: str, run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "config.toml").touch()
    (home / "folder").mkdir()
    monkeypatch.setenv(f"SIMONIDES_{name.upper()}", value)
    result = run("config", "check")
    assert result.exit_code == 1 and said in result.stdout


def test_an_embedder_whose_model_is_not_installed_is_said_to_be_missing(home: Path) -> None:
    code = "import sys; sys.modules['simonides_bge_small'] = None\nfrom simonides.cli import main; main()"
    environ = {**os.environ, "SIMONIDES_EMBEDDER": "local:"}
    ran = subprocess.run([sys.executable, "-c", code, "config", "check"], capture_output=True, text=True, env=environ)
    assert ran.returncode == 1 and "simonides[local]" in ran.stdout, ran.stdout + ran.stderr


def test_another_file_can_be_checked_before_it_is_used(run: Run, home: Path) -> None:
    (home / "next.toml").write_text("embedder = 'hashing:'\n[server]\nport = -1\n")
    result = run("config", "check", "next.toml")
    assert result.exit_code == 1 and "next.toml, line 3" in result.stdout
    assert run("config", "check").exit_code == 0
    assert run("config", "check", "none.toml").exit_code == 3
    (home / "next.toml").write_text("= 1")
    assert "is not TOML" in run("config", "check", "next.toml").stdout


def test_a_setting_of_the_server_is_written_into_its_table(run: Run, file: Path) -> None:
    assert run("config", "set", "server.port", "8080").exit_code == 0
    assert file.read_text() == "[server]\nport = 8080\n"
    run("config", "set", "user", "marta")
    run("config", "set", "cors_origins", "https://a.example,https://b.example")
    run("config", "set", "metrics", "off")
    run("config", "set", "upstream_key_file", "secret")
    assert tomllib.loads(file.read_text()) == {
        "user": "marta",
        "server": {
            "port": 8080,
            "cors_origins": ["https://a.example", "https://b.example"],
            "metrics": False,
            "upstream_key_file": "secret",
        },
    }
    run("config", "set", "port", "")
    assert "port" not in file.read_text()


@pytest.mark.parametrize(
    ("name", "value"), [("server.prt", "1"), ("port", "x"), ("server.user", "a"), ("upstream_key", SECRET)]
)
def test_what_cannot_be_set_is_refused(name: str, value: str, run: Run, file: Path) -> None:
    result = run("config", "set", name, value)
    assert result.exit_code == 2 and SECRET not in result.output
    assert not file.exists()


TEXTS = (
    "",
    "# mine\n",
    "user = 'a' # of mine\n\n# about the server\n[server]\n# the port\nport = 1\n\n\n[server.more]\nx = 1\n",
    "server.port = 1\nuser = 'a'\n",
    "[server]\nrate = 1",
    "server = { port = 1 }\n",
    "[server]\ncors_origins = [\n  'https://a',\n]\n",
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("table", "name", "value"),
    [
        *(("", "user", value) for value in ("ana", "")),
        *(("server", "port", value) for value in (9, "")),
        ("server", "cors_origins", ("*",)),
    ],
)
def test_a_setting_is_written_and_all_else_stays(text: str, table: str, name: str, value: Any, file: Path) -> None:
    file.write_text(text)
    try:
        made = written(read_file(file), table, name, value)
    except Invalid as error:
        assert "by hand" in error.message and ("{ port" in text or "[\n" in text)
        return
    inside = tomllib.loads(made).get(table, {}) if table else tomllib.loads(made)
    assert inside.get(name, "") == (list(value) if isinstance(value, tuple) else value)
    changed_lines = [line for line in text.splitlines() if name not in line and line not in made.splitlines()]
    assert changed_lines == []


# -- flags -------------------------------------------------------------------------------------------------------


@click.command()
@serving_flags()
def everything(**flags: Any) -> None:
    click.echo(repr(serving(flags)))


@click.command()
@serving_flags("host", "port")
def two(**flags: Any) -> None:
    click.echo(json.dumps(flags))


def test_each_setting_has_a_flag_but_a_secret_has_only_its_file(home: Path, secret: Path) -> None:
    help = CliRunner().invoke(everything, ["--help"]).stdout
    for name, field in FIELDS.items():
        assert (
            f"--{name.replace('_', '-')} " in help or f"--{name}/" in help.replace("-", "_").replace("__", "--", 1)
        ) or (about(field).secret or field.type == "bool")
    assert "--upstream-key-file" in help and "--upstream-key " not in help
    given = ["--no-metrics", "--require-key", "--port", "0", "--upstream-key-file", str(secret), "--seconds-max", "3"]
    result = CliRunner().invoke(everything, given)
    assert (
        "metrics=False" in result.stdout and "require_key=True" in result.stdout and "seconds_max=3.0" in result.stdout
    )
    assert SECRET not in result.stdout and HIDDEN in result.stdout


def test_a_command_may_take_some_of_the_flags(home: Path) -> None:
    assert json.loads(CliRunner().invoke(two, ["--port", "1"]).stdout) == {"host": None, "port": "1"}
    assert CliRunner().invoke(two, ["--rate", "1"]).exit_code == 2


def test_a_file_that_config_set_writes_keeps_its_mode_and_its_place(run: Run, file: Path) -> None:
    real = file.with_name("real.toml")
    real.write_text("[server]\nupstream_key = 'x'\n")
    real.chmod(0o640)
    file.symlink_to(real)
    assert run("config", "set", "user", "ana").exit_code == 0
    assert file.is_symlink() and "ana" in real.read_text()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
