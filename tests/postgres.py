"""A PostgreSQL of the suite's own: on a free port of the loopback interface, without root, gone afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from attrs import define
from support import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

_NUMBERS = itertools.count()


@define
class Postgres:
    """A running server."""

    bin: Path
    home: Path
    port: int
    user: str | None
    settings: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.home / "data"

    def url(self, database: str = "postgres", *, user: str = "nairi", password: str = "") -> str:
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        settings = [f"-c{one}" for one in ("listen_addresses=127.0.0.1", "unix_socket_directories=", *self.settings)]
        self.process = subprocess.Popen(  # noqa: S603 - PostgreSQL as it is installed
            [self.bin / "postgres", "-D", self.data, "-p", str(self.port), *settings],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=self.user, cwd=self.home,
        )  # fmt: skip
        deadline = time.monotonic() + 100
        while True:
            try:
                psycopg.connect(self.url()).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.03)
            else:
                return

    def crash(self) -> None:
        """Stop at once, as `pg_ctl stop -m immediate` does; the next start recovers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()
        self.process = None

    def execute(self, query: str, database: str = "postgres") -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def database(self) -> str:
        """Create a database, and return its URL."""
        name = f"nairi_{next(_NUMBERS)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)


def bin_directory() -> Path:
    """Return where PostgreSQL's server is installed.

    Raises:
        FileNotFoundError: it is not.
    """
    candidates = [Path(found).resolve().parent] if (found := shutil.which("postgres")) else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name, reverse=True)
    for candidate in candidates:
        if (candidate / "initdb").exists():
            return candidate
    raise FileNotFoundError("PostgreSQL is not installed: `apt-get install postgresql`, or as your system calls it")


@contextlib.contextmanager
def running_postgres(*settings: str) -> Iterator[Postgres]:
    """Run a server for as long as the block runs. PostgreSQL refuses to run as root, so that another user runs it."""
    bin_, home = bin_directory(), Path(tempfile.mkdtemp(prefix="nairi-pg-"))
    user = "nobody" if os.geteuid() == 0 else None
    if user is not None:
        os.chown(home, pwd.getpwnam(user).pw_uid, -1)
    server = Postgres(bin_, home, free_port(), user, settings or ("fsync=off", "full_page_writes=off"))
    try:
        subprocess.run(  # noqa: S603 - as above
            [bin_ / "initdb", "--no-sync", "-A", "trust", "-U", "nairi", "-E", "UTF8", "-D", server.data],
            check=True, stdout=subprocess.DEVNULL, user=user, cwd=home,
        )  # fmt: skip
        server.start()
        yield server
    finally:
        if server.process is not None:
            # Nothing is kept, so nothing is written out.
            server.crash()
        shutil.rmtree(home, ignore_errors=True)
