"""Log records of the library on the screen: clean, one line each, and above a progress bar where there is one."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from nairi_async.cli.formatting import one_line

if TYPE_CHECKING:
    from collections.abc import Generator

_LOGGER = logging.getLogger("nairi_async")


class _Show(Protocol):
    def __call__(self, text: str, *styles: str) -> object: ...


class _ScreenHandler(logging.Handler):
    def __init__(self, show: _Show) -> None:
        super().__init__(logging.WARNING)
        self.show = show

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        try:
            self.show(f"{record.levelname.lower()}: {one_line(record.getMessage())}", "yellow")
        except Exception:  # noqa: BLE001 - as for every handler of logging
            self.handleError(record)


@contextmanager
def shown_by(show: _Show) -> Generator[None]:
    """Give warnings and errors of the library to a function while the block runs."""
    handler, before = _ScreenHandler(show), _LOGGER.handlers[:]
    _LOGGER.handlers[:] = [handler]
    try:
        yield
    finally:
        _LOGGER.handlers[:] = before
