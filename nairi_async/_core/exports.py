"""Exports of a package that are imported when they are first used (PEP 562), and report the package as their module."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def lazy(
    namespace: dict[str, object], homes: Mapping[str, str], *, modules: tuple[str, ...] = (), renamed: bool = False
) -> Callable[[str], object]:
    """Return the `__getattr__` of a package. What was used once is an ordinary attribute from then on.

    Args:
        namespace: The `globals()` of the package.
        homes: The module of each exported name, relative to the package.
        modules: Modules of the package that are attributes without an import of their own.
        renamed: Whether exported classes report the package as their module: in `help()`, in reprs and in pickles.
    """
    package = str(namespace["__name__"])
    waiting = dict(homes)
    # pdoc looks into the namespace, and finds the docstrings of attributes in the module that a class names.
    is_documented = "pdoc" in sys.modules

    def load(name: str) -> object:
        if name in modules:
            return import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        import_module(f"{package}.{homes[name]}")
        # All that came with it, since a session returns objects of classes that its program never names.
        for other, home in list(waiting.items()):
            module = sys.modules.get(f"{package}.{home}")
            if (export := getattr(module, other, None)) is not None:
                del waiting[other]
                namespace[other] = export
                if renamed and isinstance(export, type) and not is_documented:
                    _rename(export, package)
        return namespace[name]

    if is_documented:
        for name in homes:
            load(name)
    return load


def _rename(export: type, package: str) -> None:
    # The import of the package alone takes a quarter of the time without these.
    from inspect import get_annotations  # noqa: PLC0415

    from attrs import has  # noqa: PLC0415

    if has(export):
        # The names in annotations are defined in the real module only.
        names = vars(sys.modules[export.__module__])
        with suppress(NameError):
            export.__annotations__ = get_annotations(export, globals=names, locals={}, eval_str=True)
    export.__module__ = package
