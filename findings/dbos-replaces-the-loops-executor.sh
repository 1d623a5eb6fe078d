#!/usr/bin/env bash
# DBOS: the first `…_async` call replaces the default executor of the program's event loop.
#
# Most expect: a library that needs threads makes a pool for itself; `asyncio.to_thread`, and asyncio's own lookups of host
#   names, go on to run on the loop's default executor.
# What happens: the first call of an `_async` function sets the loop's default executor to the pool of DBOS, without a word.
#   From then on everything that the program hands to `asyncio.to_thread` runs on that pool's threads and shares its
#   size. After `DBOS.destroy()` the pool takes nothing more, the loop still has it, and each `to_thread` raises.
# Versions: dbos 3.4.0 on SQLite, Python 3.11 and newer.
# Source: seen by running; https://docs.dbos.dev/python/reference/contexts
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dbos==3.4.0
cat >"$folder/try.py" <<'PYTHON'
import asyncio
import sys
import threading

from dbos import DBOS


@DBOS.workflow()
async def nothing():
    pass


async def thread():
    name = await asyncio.to_thread(lambda: threading.current_thread().name)
    return name.rstrip("0123456789_-")


async def main():
    seen = [await thread()]
    database = {"system_database_url": f"sqlite:///{sys.argv[1]}"}
    DBOS(config={"name": "try", "run_admin_server": False, "log_level": "CRITICAL", **database})
    DBOS.launch()
    seen.append(await thread())
    await DBOS.start_workflow_async(nothing)
    seen.append(await thread())
    await asyncio.sleep(0.5)
    DBOS.destroy()
    try:
        seen.append(await thread())
    except RuntimeError as error:
        seen.append(str(error))
    for moment, what in zip(("at first", "after launch()", "after an async call", "after destroy()"), seen, strict=True):
        print(f"asyncio.to_thread {moment}: {what}")
    assert seen[:3] == ["asyncio", "asyncio", "dbos-executor"], "it has changed"
    assert seen[3].startswith("cannot schedule"), "it has changed"


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/dbos.sqlite"
