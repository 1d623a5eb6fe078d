#!/usr/bin/env bash
# attrs: a frozen exception that is slotted loses its notes in a copy; one that is not slotted cannot be copied at all.
#
# Most expect: `@frozen` on an exception class gives what it gives on every other class: `copy` and `pickle` work, and
#   what `add_note` (PEP 678) attached goes along, as it does with a plain exception.
# What happens: slotted (`@frozen`), the copy comes without `__notes__`. Not slotted (`@frozen(slots=False)`), `copy.copy`
#   and `pickle.loads` raise FrozenInstanceError. `@define(slots=False)` keeps both.
# Versions: attrs 26.1.0, Python 3.11 and newer.
# Source: seen by running; https://www.attrs.org/en/stable/api.html (`auto_exc`) does not mention it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet attrs==26.1.0
cat >"$folder/try.py" <<'PYTHON'
import copy
import pickle

from attrs import define, frozen


class Plain(Exception):
    pass


@frozen
class Slotted(Exception):
    order: int


@frozen(slots=False)
class NotSlotted(Exception):
    order: int


@define(slots=False)
class Defined(Exception):
    order: int


def outcome(kind, again):
    error = kind(7)
    error.add_note("while the order was sent")
    try:
        return getattr(again(error), "__notes__", "no notes")
    except Exception as failed:
        return type(failed).__name__


ways = {"copy": copy.copy, "pickle": lambda error: pickle.loads(pickle.dumps(error))}
seen = {kind.__name__: {name: outcome(kind, again) for name, again in ways.items()} for kind in (Plain, Slotted, NotSlotted, Defined)}
for name, results in seen.items():
    print(name, results)
kept = ["while the order was sent"]
assert seen["Plain"] == seen["Defined"] == {"copy": kept, "pickle": kept}, "it has changed"
assert seen["Slotted"] == {"copy": "no notes", "pickle": "no notes"}, "it has changed"
assert seen["NotSlotted"] == {"copy": "FrozenInstanceError", "pickle": "FrozenInstanceError"}, "it has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
