#!/usr/bin/env bash
# DBOS: starting a second process of the same program runs a step again that the first process is in the middle of.
#
# Most expect: what was left behind by a process that died is recovered, so a process that starts while another one lives
#   (a second worker, a rolling deployment) leaves alone what that one is doing.
# What happens: recovery goes by the executor's id, and outside DBOS's own platform each process has the same one by
#   default. `DBOS.launch()` in the second process takes the unfinished workflow for abandoned: the step begins again
#   while its first run goes on. Neither run raises, and the workflow succeeds.
# Versions: dbos 3.4.0 on SQLite, Python 3.11 and newer.
# Source: seen by running; https://docs.dbos.dev/production/workflow-recovery
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dbos==3.4.0
cat >"$folder/try.py" <<'PYTHON'
import pathlib
import subprocess
import sys
import time

from dbos import DBOS

folder, role = pathlib.Path(sys.argv[1]), sys.argv[2]
log = folder / "log"


def note(line):
    with log.open("a") as lines:
        lines.write(f"{line}\n")


@DBOS.step()
def charge():
    note("begins")
    time.sleep(6)
    note("ends")


@DBOS.workflow()
def pay():
    charge()


database = {"system_database_url": f"sqlite:///{folder / 'dbos.sqlite'}"}
DBOS(config={"name": "try", "run_admin_server": False, "log_level": "CRITICAL", **database})
DBOS.launch()
if role == "first":
    running = DBOS.start_workflow(pay)
    while not log.exists():
        time.sleep(0.1)
    subprocess.run([sys.executable, __file__, folder, "second"], check=True)
    running.get_result()
    time.sleep(8)
else:
    time.sleep(3)
DBOS.destroy()
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder" first
echo "the step, in order:" $(cat "$folder/log")
test "$(tr '\n' ' ' <"$folder/log")" = "begins begins ends ends "
