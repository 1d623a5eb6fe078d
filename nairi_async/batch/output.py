"""The file of replies: one line for each end in the ledger, in the order of ends, each once whatever happens.

Every line follows from the ledger, byte for byte, and the ledger knows up to where the file is safely on the disk. So
after a crash the rest of the file is compared with what it must be, a torn last line is cut off, and what is missing
is written. Nothing is noted about a single line, and nothing of somebody else's is ever cut off or written over.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nairi_async.batch.documents import line
from nairi_async.batch.ledger_file import ledger_errors
from nairi_async.errors import LedgerError

if TYPE_CHECKING:
    from pathlib import Path

    from nairi_async.batch.ledger import End, Ledger

# Ends that are turned into lines at a time.
_PAGE: Final = 256
# The longest torn line that is cut off without asking.
_TORN: Final = 64 * 1024 * 1024


class Output:
    """The open file. All of this blocks: it belongs to the ledger's thread.

    Args:
        path: The file, made if it is missing; one that is there before the batch begins is appended to.
        ledger: What it is the output of.

    Raises:
        LedgerError: the file cannot be written, or is not what this ledger has written so far.
    """

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self._path = path
        with ledger_errors(path):
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b", 0)
        try:
            with ledger_errors(path):
                self._end, self._size = self._begin(ledger)
                if self._end:
                    self._check_last(ledger)
                self._compare(ledger)
                self.sync(ledger)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file. Harmless when repeated."""
        with suppress(OSError):
            self._file.close()

    def catch_up(self, ledger: Ledger) -> None:
        """Write the lines of all ends that the ledger holds and the file does not."""
        with ledger_errors(self._path):
            while ends := ledger.ends(self._end, _PAGE):
                self._append(b"".join(_line(end, ledger) for end in ends))
                self._end = ends[-1].finished

    def sync(self, ledger: Ledger) -> None:
        """Make the file durable, and let the ledger's next commit say so."""
        with ledger_errors(self._path):
            os.fsync(self._file.fileno())
        ledger.output = (self._end, self._size)

    def _begin(self, ledger: Ledger) -> tuple[int, int]:
        """Up to which end, and to which byte, the file is as it should be."""
        actual = self._file.seek(0, os.SEEK_END)
        known = ledger.output
        if known is None:
            self._file.seek(max(0, actual - 1))
            if actual and self._file.read(1) != b"\n":
                raise LedgerError("does not end with a whole line; it cannot be appended to", str(self._path))
            return 0, actual
        if actual >= known[1]:
            return known
        if actual:
            raise self._foreign(f"it is shorter than what was written, {known[1]} bytes")
        # Moved away, or another name: the ledger holds everything.
        return 0, 0

    def _check_last(self, ledger: Ledger) -> None:
        """The line in front of where we go on is the one that we wrote."""
        with ledger_errors(ledger.path):
            last = ledger.ends(self._end - 1, 1)[0]
        expected = _line(last, ledger)
        self._file.seek(max(0, self._size - len(expected)))
        if self._read(len(expected)) != expected:
            raise self._foreign("its lines are others")

    def _compare(self, ledger: Ledger) -> None:
        """Go over the lines that were written and not noted; cut off a torn one."""
        self._file.seek(self._size)
        while ends := ledger.ends(self._end, _PAGE):
            for end in ends:
                expected = _line(end, ledger)
                if self._read(len(expected)) != expected:
                    self._cut()
                    return
                self._end, self._size = end.finished, self._size + len(expected)
        self._cut()

    def _cut(self) -> None:
        self._file.seek(self._size)
        rest = self._read(_TORN)
        if b"\n" in rest or len(rest) == _TORN:
            raise self._foreign(f"behind byte {self._size} it holds lines of something else")
        if rest:
            self._file.truncate(self._size)

    def _append(self, data: bytes) -> None:
        self._file.seek(self._size)
        view = memoryview(data)
        while view:
            count = self._file.write(view) or 0
            view = view[count:]
        self._size += len(data)

    def _read(self, count: int) -> bytes:
        pieces: list[bytes] = []
        while count and (piece := self._file.read(count)):
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _foreign(self, reason: str) -> LedgerError:
        advice = "move it away or name another file, and all replies are written anew"
        return LedgerError(f"is not what the ledger has written: {reason}; {advice}", str(self._path))


def _line(end: End, ledger: Ledger) -> bytes:
    with ledger_errors(ledger.path):
        return line(end.id, end.document)
