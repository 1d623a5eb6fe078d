"""Exports of a package that are imported when they are first used (PEP 562), and report the package as their module."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping


class _Exports:
    """The exports of one package."""

    def __init__(
        self, namespace: dict[str, object], homes: Mapping[str, str], modules: tuple[str, ...], *, renamed: bool
    ) -> None:
        self._namespace, self._homes, self._modules = namespace, homes, modules
        self._package = str(namespace["__name__"])
        self._waiting = dict(homes)
        # pdoc looks into the namespace, and finds the docstrings of attributes in the module that a class names.
        self._is_documented = "pdoc" in sys.modules
        self._renamed = renamed and not self._is_documented

    def load(self, name: str) -> object:
        """Return an export, once its module has been imported."""
        if name in self._modules:
            return import_module(f"{self._package}.{name}")
        if name not in self._homes:
            raise AttributeError(f"module {self._package!r} has no attribute {name!r}")
        import_module(f"{self._package}.{self._homes[name]}")
        # All that came with it, since a session returns objects of classes that its program never names.
        self.publish(set(self._waiting.values()))
        return self._namespace[name]

    def load_documented(self) -> None:
        """Load all of them for pdoc."""
        for name in self._homes if self._is_documented else ():
            self.load(name)

    def publish(self, modules: Container[str]) -> None:
        """Make what these modules define attributes of the package, as far as they were imported."""
        for name, home in list(self._waiting.items()):
            module = sys.modules.get(f"{self._package}.{home}") if home in modules else None
            if (export := getattr(module, name, None)) is not None:
                self._namespace[name] = export
                # Another thread may have been here in the meantime.
                is_ours = self._waiting.pop(name, None) is not None
                if is_ours and self._renamed and isinstance(export, type):
                    _rename(export, self._package)


_packages: dict[str, _Exports] = {}


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
    exports = _packages[str(namespace["__name__"])] = _Exports(namespace, homes, modules, renamed=renamed)
    exports.load_documented()
    return exports.load


def publish(module: str) -> None:
    """Make what a module of `nairi_async` defines exports: the last line of a module that a method imports.

    Its classes report the package as their module then, though the program never asked the package for them.
    """
    package, _, home = module.partition(".")
    _packages[package].publish({home})


def _rename(export: type, package: str) -> None:
    # The import of the package alone takes a quarter of the time without these.
    from inspect import get_annotations  # noqa: PLC0415

    from attrs import has  # noqa: PLC0415

    if has(export):
        # The names in annotations are defined in the real module only.
        with suppress(NameError):
            export.__annotations__ = {
                name: _evaluated(annotation, export.__module__) for name, annotation in get_annotations(export).items()
            }
    export.__module__ = package


@cache
def _evaluated(annotation: str, module: str) -> object:
    """Return what an annotation stands for; most fields have one of a few types."""
    return eval(annotation, vars(sys.modules[module]))  # noqa: S307 - our own annotations
