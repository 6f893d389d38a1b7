"""The scaled compose profile and the Helm chart: what they promise, as far as that can be seen without a cluster."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import psycopg
import pytest
import redis
import yaml
from conftest import ROOT
from engines import Machine, Postgres, Valkey

from simonides.config import Settings
from simonides.serving import Serving

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "simonides"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
NAMED = {"store": {"existingSecret": "theirs"}}
TRIAL = {"postgres": {"enabled": True}, "valkey": {"enabled": True}}
EVERYTHING = {
    **TRIAL,
    "settings": {"rate": 600, "metrics": True, "cors_origins": ["https://a.example", "https://b.example"]},
    "secretSettings": {"upstream_key": {"secret": "openai", "key": "key"}},
    "ingress": {"enabled": True, "host": "memory.example.com", "className": "nginx", "tlsSecret": "tls"},
    "imagePullSecrets": [{"name": "registry"}],
    "api": {
        "autoscaling": {"enabled": False},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"operator": "Exists"}],
    },
    "networkPolicy": {
        "from": [{"podSelector": {"matchLabels": {"app": "agent"}}}],
        "egress": [{"ports": [{"port": 443}]}],
    },
    "serviceAccount": {"annotations": {"a": "b"}},
}
CASES = pytest.mark.parametrize("values", [NAMED, TRIAL, EVERYTHING], ids=["named", "trial", "everything"])


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values=values, name="demo")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [made for text in texts for made in yaml.safe_load_all(text) if made]


def of_kind(kind: str, made: list[dict[str, Any]], part: str = "") -> list[dict[str, Any]]:
    return [each for each in made if each["kind"] == kind and each["metadata"]["name"].endswith(part)]


def pods(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["spec"]["template"]["spec"] for each in made if each["kind"] in ("Deployment", "StatefulSet")]


# -- the chart ----------------------------------------------------------------------------------------------------


def test_the_linter_finds_no_fault_with_the_chart() -> None:
    found = helm_python.lint(str(CHART), values=NAMED)
    assert not found["errors"] and all(each["severity"] <= 1 for each in found["messages"]), found


@CASES
@pytest.mark.parametrize("release", ["1.27", "1.37"])
def test_what_the_chart_makes_is_what_kubernetes_takes(values: dict[str, Any], release: str) -> None:
    made = rendered(values)
    assert len({(each["kind"], each["metadata"]["name"]) for each in made}) == len(made)
    for each in made:
        kubernetes_validate.validate(each, release, strict=True)


@CASES
def test_no_pod_is_root_or_may_become_it(values: dict[str, Any]) -> None:
    for pod in pods(rendered(values)):
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]
    ours = [pod for pod in pods(rendered(values)) if pod["containers"][0]["name"] in ("api", "worker")]
    assert len(ours) == 2
    assert all(pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] for pod in ours)


@CASES
def test_every_setting_of_the_chart_is_one(values: dict[str, Any]) -> None:
    known = {field.name for made in (Settings, Serving) for field in dataclasses.fields(made)} | {"url"}
    made = rendered(values)
    [config] = [each for each in of_kind("ConfigMap", made) if each["metadata"]["name"] == "demo"]
    names = list(config["data"] or {}) + [
        each["name"] for pod in pods(made) for each in pod["containers"][0].get("env", ())
    ]
    ours = [name for name in names if name.startswith("SIMONIDES_")]
    assert ours and all(name.removeprefix("SIMONIDES_").removesuffix("_FILE").lower() in known for name in ours), ours


def test_no_secret_stands_where_settings_stand() -> None:
    made = rendered({**TRIAL, "store": {"url": "postgresql://me:hunter2@db/x"}})
    others = [each for each in made if each["kind"] != "Secret"]
    assert "hunter2" not in yaml.safe_dump_all(others)
    assert "hunter2" in yaml.safe_dump_all(of_kind("Secret", made))


def test_the_trials_secrets_fit_each_other() -> None:
    made = rendered(TRIAL)
    [cache] = of_kind("Secret", made, "-cache")
    [store] = of_kind("Secret", made, "-store")
    assert hashlib.sha256(cache["stringData"]["password"].encode()).hexdigest() in cache["stringData"]["acl"]
    assert f":{cache['stringData']['password']}@demo-valkey:6379" in cache["stringData"]["url"]
    assert f":{store['stringData']['simonides_password']}@demo-postgres/" in store["stringData"]["url"]
    assert len({*store["stringData"].values(), *cache["stringData"].values()}) == 6


def test_the_servers_can_be_reached_and_the_engines_by_them_alone() -> None:
    made = rendered(EVERYTHING)
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind("NetworkPolicy", made)}
    assert set(policies) == {"demo-api", "demo-worker", "demo-postgres", "demo-valkey"}
    assert all(set(each["policyTypes"]) == {"Ingress", "Egress"} for each in policies.values())
    labels = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in (
        each["spec"]["template"] for each in made if each["kind"] in ("Deployment", "StatefulSet"))}  # fmt: skip
    assert labels == {"api", "worker", "postgres", "valkey"}
    for engine in ("postgres", "valkey"):
        [rule] = policies[f"demo-{engine}"]["ingress"]
        peers = [each["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for each in rule["from"]]
        assert peers == ["api", "worker"] and not policies[f"demo-{engine}"]["egress"]
    assert policies["demo-api"]["ingress"][0]["from"] == EVERYTHING["networkPolicy"]["from"]
    assert {"ports": [{"port": 443}]} in policies["demo-api"]["egress"]


def test_the_servers_scale_and_one_always_stays() -> None:
    made = rendered(NAMED)
    [scaler] = of_kind("HorizontalPodAutoscaler", made)
    [api] = of_kind("Deployment", made, "-api")
    assert scaler["spec"]["scaleTargetRef"]["name"] == api["metadata"]["name"] and "replicas" not in api["spec"]
    assert api["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    budgets = {each["metadata"]["name"]: each["spec"]["minAvailable"] for each in of_kind("PodDisruptionBudget", made)}
    assert budgets == {"demo-api": 1, "demo-worker": 1}
    fixed = rendered(EVERYTHING)
    assert not of_kind("HorizontalPodAutoscaler", fixed)
    assert of_kind("Deployment", fixed, "-api")[0]["spec"]["replicas"] == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "say where the store is"),
        ({**NAMED, "apii": {}}, "apii"),
        ({**NAMED, "settings": {"Rate": 1}}, "Rate"),
        ({**NAMED, "ingress": {"enabled": True}}, "ingress.host"),
        ({**NAMED, "service": {"type": "Public"}}, "service"),
    ],
    ids=["no store", "unknown", "no setting", "no host", "no such service"],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(helm_python.HelmError, match=said):
        rendered(values)


# -- compose ------------------------------------------------------------------------------------------------------


def test_what_is_published_is_published_to_this_machine() -> None:
    ports = {
        name: [port.replace("${PUBLISH_AT:-", "").replace("}", "") for port in service.get("ports", ())]
        for name, service in COMPOSE["services"].items()
    }
    assert all(port.startswith("127.0.0.1:") for each in ports.values() for port in each)
    published = {name: each[0].split(":")[1] for name, each in ports.items() if each}
    assert published == {
        "simonides": "40020", "gateway": "40020",
        "postgres": "40021", "valkey": "40022", "qdrant": "40023", "kafka": "40024",
    }  # fmt: skip


def test_every_setting_of_compose_is_one() -> None:
    known = {field.name for made in (Settings, Serving) for field in dataclasses.fields(made)} | {"url"}
    for service in COMPOSE["services"].values():
        names = [name for name in service.get("environment", ()) if name.startswith("SIMONIDES_")]
        assert all(name.removeprefix("SIMONIDES_").removesuffix("_FILE").lower() in known for name in names), names


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The folder of secrets as the script makes it."""
    for _ in range(2):  # the second time changes nothing
        subprocess.run(["sh", DEPLOY / "compose" / "secrets.sh"], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "secrets"


def test_the_secrets_are_made_once_and_closed_to_others(secrets: Path) -> None:
    assert secrets.stat().st_mode & 0o077 == 0
    before = {file.name: file.read_bytes() for file in secrets.iterdir()}
    assert set(before) == set(COMPOSE["secrets"])
    subprocess.run(["sh", DEPLOY / "compose" / "secrets.sh"], cwd=secrets.parent, check=True, capture_output=True)
    assert {file.name: file.read_bytes() for file in secrets.iterdir()} == before


def test_the_caches_secrets_open_it_and_nothing_else_does(secrets: Path, engines: Machine) -> None:
    class Closed(Valkey):
        def command(self) -> list[str]:
            return [*super().command(), "--aclfile", str(self.folder / "acl")]

    made = Closed(engines.place("closed"))
    shutil.copy(secrets / "valkey_acl", made.folder / "acl")
    engines.own(made)
    url = (secrets / "cache_url").read_text().replace("valkey:6379", f"127.0.0.1:{made.port}")
    with redis.Redis.from_url(url) as client:
        assert client.ping()
    with redis.Redis.from_url(made.url) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    made.stop()


def test_the_databases_first_script_makes_a_role_that_walls_hold_for(
    secrets: Path, postgres: Postgres, tmp_path: Path
) -> None:
    script = (DEPLOY / "compose" / "postgres.sh").read_text().replace("/run/secrets", str(secrets))
    script = script.replace("simonides LOGIN", "made_first LOGIN").replace("OWNER simonides", "OWNER made_first")
    script = script.replace("DATABASE simonides", "DATABASE made_first").replace(
        "connect simonides", "connect made_first"
    )
    places = {"PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "PATH": f"{postgres.bin}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", script], env={**postgres.environment, **places}, check=True, capture_output=True)
    with psycopg.connect(postgres.url("made_first").replace("postgres@", "made_first@")) as connection:
        role = connection.execute("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user").fetchone()
        assert role == (False, False)
        assert connection.execute("SELECT '[1]'::vector").fetchone()


def test_the_chart_makes_the_database_as_compose_does() -> None:
    [made] = of_kind("ConfigMap", rendered(TRIAL), "-postgres")
    script = (DEPLOY / "compose" / "postgres.sh").read_text("utf-8")
    code = [line for line in script.splitlines() if not line.startswith("#")]
    assert [line for line in made["data"]["10-simonides.sh"].splitlines() if not line.startswith("#")] == code
