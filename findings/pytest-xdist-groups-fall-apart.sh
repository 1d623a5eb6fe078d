#!/usr/bin/env bash
# pytest-xdist's groups with pytest 9.2: tests of one group run in several workers, and nothing says so.
#
# Most expect: `--dist loadgroup` runs the tests that are marked with one `xdist_group` in one worker, as the documentation
#   guarantees, or fails. Projects rely on it for what only one process may use: a port, a database, a device.
# What happens: with pytest 9.2 the mark is accepted and has no effect. The worker appends the group's name to the id of
#   a test by an attribute of pytest that no longer holds the id, so the scheduler sees no group. No error and no warning,
#   also with warnings as errors and strict markers. With pytest 9.1 the same release of pytest-xdist keeps groups together.
# Versions: pytest-xdist 3.8.0 (the newest) with pytest 9.1.1 and 9.2.0.
# Source: seen by running; https://github.com/pytest-dev/pytest-xdist/issues/1386 and, for what is guaranteed,
#   https://pytest-xdist.readthedocs.io/en/stable/distribution.html
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat >test_group.py <<'PYTHON'
import os
import time

import pytest


@pytest.mark.xdist_group("the only port")
@pytest.mark.parametrize("number", range(12))
def test_in_one_worker(number):
    time.sleep(0.05)
    with open("workers.txt", "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\n")
PYTHON
for version in 9.1.1 9.2.0; do
  python3 -m venv "venv-$version"
  "venv-$version/bin/pip" install --quiet "pytest==$version" pytest-xdist==3.8.0
  rm -f workers.txt
  "venv-$version/bin/python" -m pytest -q -W error --strict-markers -p no:cacheprovider -n 3 --dist loadgroup \
    test_group.py >output.txt 2>&1
  grep -q "12 passed" output.txt
  if grep -qi "warning" output.txt; then exit 1; fi
  workers=$(sort -u workers.txt | wc -l)
  echo "pytest $version: one group ran in $workers worker(s), no warning"
  case $version in
    9.1.1) test "$workers" -eq 1 ;;
    9.2.0) test "$workers" -gt 1 ;;
  esac
done
