"""Makes public classes report the public module: in `help()`, in reprs and in pickles."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, get_type_hints

from attrs import has

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def set_module(module: str, names: Iterable[str], namespace: Mapping[str, object]) -> None:
    """Set `__module__` of the exported classes of a module, so that private modules can move.

    pdoc finds the docstrings of attributes in the source of the module that a class names. While it is loaded, the
    classes keep their real one.
    """
    if "pdoc" in sys.modules:
        return
    for name in names:
        export = namespace[name]
        if isinstance(export, type):
            if has(export):
                # The names in annotations are defined in the real module only.
                with suppress(NameError):
                    types = get_type_hints(export, include_extras=True)
                    export.__annotations__ = {field: types[field] for field in export.__annotations__}
            export.__module__ = module
