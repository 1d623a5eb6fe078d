#!/usr/bin/env bash
# pytest-asyncio in automatic mode and a test marked for anyio: the test and its async fixture run on two event loops.
#
# Most expect: a test and the async fixture that it asks for share one event loop, or pytest says that they do not.
# What happens: anyio's plugin runs the marked test on a loop of its own, pytest-asyncio's automatic mode takes the
#   fixture and runs it on another. No error, no warning, also with warnings as errors. What the fixture holds (a
#   connection, a lock, a task) then hangs or fails far from the cause.
# Versions: pytest 9.0.2, pytest-asyncio 1.5.0, anyio 4.16.0.
# Source: seen by running; https://anyio.readthedocs.io/en/stable/testing.html asks for strict mode without saying why.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pytest==9.0.2 pytest-asyncio==1.5.0 anyio==4.16.0
cat >"$folder/test_loops.py" <<'PYTHON'
import asyncio

import pytest


@pytest.fixture
async def loop_of_the_fixture():
    return asyncio.get_running_loop()


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.anyio
async def test_loops(loop_of_the_fixture):
    is_same = loop_of_the_fixture is asyncio.get_running_loop()
    print(f"\none loop for the test and its fixture: {is_same}")
PYTHON
cd "$folder"
for mode in strict auto; do
  echo "mode $mode"
  venv/bin/python -m pytest -q -s -W error -p no:cacheprovider -o asyncio_mode=$mode test_loops.py >"$mode.txt" 2>&1
  grep -E "one loop|passed|warning" "$mode.txt"
done
grep -q "fixture: True" strict.txt
grep -q "fixture: False" auto.txt
! grep -q "warning" auto.txt
