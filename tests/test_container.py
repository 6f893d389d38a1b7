"""The image and the compose files: what they promise, as far as that can be seen without building anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from serving import child, served

import simonides
from simonides.serving import Serving

ROOT = Path(simonides.__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE, PROXY = ROOT / "compose.yaml", ROOT / "compose.proxy.yaml"


def program(name: str) -> str:
    """Return where a program of the environment is."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def instructions(stage: int) -> list[tuple[str, str]]:
    """Return the instructions of a stage, those of several lines in one."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE))
    found = [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]
    begins = [at for at, (name, _) in enumerate(found) if name == "FROM"]
    return found[begins[stage] : [*begins[1:], len(found)][stage]]


def told(name: str, stage: int = -1) -> str:
    """Return what the last instruction of that name says."""
    return [said for each, said in instructions(stage) if each == name][-1]


def variables() -> dict[str, str]:
    return dict(part.split("=", 1) for part in told("ENV").split())


def service(*files: Path) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for file in files:
        merged |= yaml.safe_load(file.read_text("utf-8"))["services"]["simonides"]
    return merged


# -- linters ------------------------------------------------------------------------------------------------------


def test_the_linter_has_nothing_to_say_of_the_dockerfile() -> None:
    ran = subprocess.run([program("hadolint"), str(ROOT / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_compose_files_keep_to_the_specification() -> None:
    command = [program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE), str(PROXY)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("files", [[COMPOSE], [COMPOSE, PROXY]], ids=["alone", "with the proxy's key"])
def test_compose_itself_takes_them(files: list[Path]) -> None:
    command = [program("docker-compose"), *(word for file in files for word in ("-f", str(file))), "config", "--quiet"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# -- the image ----------------------------------------------------------------------------------------------------


def test_the_image_is_not_roots_and_stops_by_signals() -> None:
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", told("USER"))
    assert json.loads(told("ENTRYPOINT")) == ["simonides"] and json.loads(told("CMD")) == ["serve"]
    assert told("VOLUME") == "/data" and variables()["SIMONIDES_URL"].startswith("sqlite:////data/")
    assert told("EXPOSE") == variables()["SIMONIDES_PORT"] == str(Serving().port)


def test_the_image_is_of_every_processor() -> None:
    assert not re.search(r"amd64|arm64|x86|aarch|TARGETARCH|--platform|uname", DOCKERFILE)


def test_nothing_of_the_first_stage_comes_along_but_what_was_installed() -> None:
    copied = [said for name, said in instructions(-1) if name in ("COPY", "ADD")]
    assert copied == ["--from=built /opt/simonides /opt/simonides"]
    assert not re.search(r"\b(pip|apt-get|curl|wget)\b", " ".join(said for _, said in instructions(-1)))


def test_what_is_copied_is_sent_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    copied = [said.split()[:-1] for name, said in instructions(0) if name == "COPY"]
    wanted = {source for sources in copied for source in sources}
    assert {line[1:] for line in lines if line.startswith("!")} == wanted
    assert all((ROOT / source).exists() for source in wanted)


def test_the_image_asks_for_a_key_and_does_not_start_without_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables().items():
        if name.startswith("SIMONIDES_"):
            monkeypatch.setenv(name, value.replace("/data", str(home)))
    command = [sys.executable, "-m", "simonides"]
    port = ["--port", "0"]
    refused = subprocess.run([*command, "serve", *port], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and "keys create" in refused.stderr
    subprocess.run([*command, "keys", "create", "first", "-q"], check=True, capture_output=True, timeout=60)
    with child(home) as server:
        assert server.said["keys"] and server.said["store"] == f"sqlite:///{home}/memory.db"


@pytest.mark.parametrize("whose", ["the image", "compose"])
def test_the_health_check_says_whether_it_lives(whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a name of its own, also where the server is to be called by others."""
    words = json.loads(told("HEALTHCHECK").partition("CMD ")[2]) if whose == "the image" else []
    words = words or service(COMPOSE)["healthcheck"]["test"][1:]
    assert words[0] == "python"

    def asked(port: str) -> int:
        monkeypatch.setenv("SIMONIDES_PORT", port)
        said = [word.replace("127.0.0.1:40020", f"127.0.0.1:{port}") for word in words[1:]]
        return subprocess.run([sys.executable, *said], capture_output=True, timeout=60).returncode

    serving = Serving(host="0.0.0.0", port=0, directory="memory:", allowed_hosts=("memory.example.com",))
    with served(serving=serving) as server:
        port = server.url.rpartition(":")[2]
        assert asked(port) == 0
    assert asked(port) == 1


# -- compose ------------------------------------------------------------------------------------------------------


def test_only_the_port_is_published_and_only_to_this_machine() -> None:
    [port] = service(COMPOSE)["ports"]
    assert re.sub(r"\$\{PUBLISH_AT:-(.*?)\}", r"\1", port) == f"127.0.0.1:{Serving().port}:{Serving().port}"


def test_the_container_may_do_nothing_that_it_need_not() -> None:
    made = service(COMPOSE, PROXY)
    assert made["read_only"] is True and made["cap_drop"] == ["ALL"]
    assert made["security_opt"] == ["no-new-privileges:true"] and "privileged" not in made
    assert [mount.partition(":")[0] for mount in made["tmpfs"]] == ["/tmp"]
    assert made["volumes"] == ["memory:/data"]


def test_it_has_time_to_end() -> None:
    assert int(service(COMPOSE)["stop_grace_period"].removesuffix("s")) > Serving().drain_seconds


def test_a_secret_is_a_file() -> None:
    made = service(PROXY)
    [(name, path)] = made["environment"].items()
    assert name == "SIMONIDES_UPSTREAM_KEY_FILE" and [path] == [f"/run/secrets/{each}" for each in made["secrets"]]
    assert "file" in yaml.safe_load(PROXY.read_text("utf-8"))["secrets"]["upstream_key"]
