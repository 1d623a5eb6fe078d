"""Log records of the library: on the screen, clean and above a progress bar where there is one, and in a file."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from nairi_async.cli.formatting import clean, one_line
from nairi_async.cli.screen import Screen
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Generator

_LOGGER = logging.getLogger("nairi_async")


class _Show(Protocol):
    def __call__(self, text: str, *styles: str) -> object: ...


class _ScreenHandler(logging.Handler):
    def __init__(self, level: int, show: _Show) -> None:
        super().__init__(level)
        self.show = show

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record on one line."""
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        try:
            self.show(f"{record.levelname.lower()}: {one_line(record.getMessage())}", style)
        except Exception:  # noqa: BLE001 - as for every handler of logging
            self.handleError(record)


class _FileHandler(logging.Handler):
    """Appends each record, written through, to a file, which only its owner can read unless it exists."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.DEBUG)
        self._name = name
        try:
            self._file: int | None = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise InvalidArgumentError(f"--log-file: {name!r} cannot be written: {reason}") from error

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record; give up, with one line on standard error, where the file cannot be written any more."""
        if self._file is None:
            return
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        text = f"{at} {record.levelname} {record.name} {one_line(record.getMessage())}"
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + clean("".join(traceback.format_exception(record.exc_info[1])).rstrip())
        try:
            os.write(self._file, f"{text}\n".encode(errors="replace"))
        except OSError as error:
            self.close()
            Screen.on(sys.stderr).show(f"warning: {self._name!r} is not written any more: {error.strerror}", "yellow")

    def close(self) -> None:
        """Close the file. Harmless when repeated."""
        super().close()
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                os.close(file)


@contextmanager
def logs(*, verbose: bool, file: str | None) -> Generator[None]:
    """Show warnings of the library, or with `verbose` everything, and append everything to a file if one is named.

    Raises:
        InvalidArgumentError: the file cannot be opened.
    """
    level = logging.DEBUG if verbose else logging.WARNING
    handlers: list[logging.Handler] = [_ScreenHandler(level, Screen.on(sys.stderr).show)]
    handlers += [_FileHandler(file)] if file is not None else []
    before = _LOGGER.handlers[:], _LOGGER.level
    _LOGGER.handlers[:] = handlers
    if verbose or file is not None:
        _LOGGER.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        _LOGGER.handlers[:] = before[0]
        _LOGGER.setLevel(before[1])
        for handler in handlers:
            handler.close()


@contextmanager
def shown_by(show: _Show) -> Generator[None]:
    """Give what goes to the screen to a function while the block runs."""
    changed = [(handler, handler.show) for handler in _LOGGER.handlers if isinstance(handler, _ScreenHandler)]
    for handler, _ in changed:
        handler.show = show
    try:
        yield
    finally:
        for handler, before in changed:
            handler.show = before
