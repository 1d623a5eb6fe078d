"""The file of replies: one line for each outcome in the ledger, in their order, each exactly once.

Each line follows from the ledger, byte for byte, and the ledger records up to where the file is durable. After a crash
the rest of the file is compared with what it must be, an incomplete last line is cut off, and missing lines are
written. No bookkeeping per line is needed, and lines of another program are never cut off or overwritten.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nairi_async.batch.documents import output_line
from nairi_async.batch.ledger_file import LEDGER
from nairi_async.errors import LedgerError

if TYPE_CHECKING:
    from pathlib import Path

    from nairi_async.batch.ledger import Ledger, RecordedOutcome

# Outcomes that are turned into lines at a time.
_PAGE_SIZE: Final = 256
# In bytes; a longer incomplete line is not cut off.
_LONGEST_INCOMPLETE_LINE: Final = 64 * 1024 * 1024


class RepliesFile:
    """The open file. All of this blocks: it belongs to the ledger's thread.

    It is opened before the ledger, so that a file that cannot be written leaves no new ledger behind.

    Args:
        path: The file, created for its owner alone if it is missing; one that exists before the batch is appended to.
        has_ledger: Whether the ledger exists.

    Raises:
        LedgerError: the file cannot be written, or nothing can be appended to it.
    """

    def __init__(self, path: Path, *, has_ledger: bool) -> None:
        self._path = path
        self._sequence = self._size = 0
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        with LEDGER.errors(path):
            self._is_new = not path.exists()
            self._file = os.fdopen(os.open(path, flags, 0o600), "r+b", 0)
        try:
            if not has_ledger:
                with LEDGER.errors(path):
                    self._check_end()
        except BaseException:
            self._file.close()
            raise

    def begin(self, ledger: Ledger) -> None:
        """Check the file against the ledger.

        Raises:
            LedgerError: it is not what this ledger has written so far.
        """
        with LEDGER.errors(self._path):
            self._sequence, self._size = self._known_part(ledger)
            if self._sequence:
                self._check_last_line(ledger)
            self._check_rest(ledger)
            self.sync(ledger)

    def discard(self) -> None:
        """Close the file, and remove it if it was created here."""
        self.close()
        with suppress(OSError):
            if self._is_new and not self._path.stat().st_size:
                self._path.unlink()

    def close(self) -> None:
        """Close the file. Harmless when repeated."""
        with suppress(OSError):
            self._file.close()

    def catch_up(self, ledger: Ledger) -> None:
        """Write the lines of all outcomes that the ledger holds and the file does not."""
        with LEDGER.errors(self._path):
            while outcomes := ledger.outcomes(self._sequence, _PAGE_SIZE):
                self._append(b"".join(_line(outcome, ledger) for outcome in outcomes))
                self._sequence = outcomes[-1].sequence

    def sync(self, ledger: Ledger) -> None:
        """Make the file durable; the ledger's next commit records it."""
        with LEDGER.errors(self._path):
            os.fsync(self._file.fileno())
        ledger.output = (self._sequence, self._size)

    def _known_part(self, ledger: Ledger) -> tuple[int, int]:
        """Return up to which outcome, and which byte, the ledger knows the file."""
        actual = self._file.seek(0, os.SEEK_END)
        known = ledger.output
        if known is None:
            self._check_end()
            return 0, actual
        if actual >= known[1]:
            return known
        if actual:
            raise self._foreign(f"it is shorter than the {known[1]} bytes that were written")
        # The file was moved away or renamed: the ledger holds everything.
        return 0, 0

    def _check_end(self) -> None:
        """Check that a line can be appended."""
        actual = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, actual - 1))
        if actual and self._file.read(1) != b"\n":
            raise LedgerError("does not end with a whole line, so nothing can be appended to it", str(self._path))

    def _check_last_line(self, ledger: Ledger) -> None:
        """Check that the last known line is the one that the batch wrote."""
        with LEDGER.errors(ledger.path):
            last = ledger.outcomes(self._sequence - 1, 1)[0]
        expected = _line(last, ledger)
        self._file.seek(max(0, self._size - len(expected)))
        if self._read(len(expected)) != expected:
            raise self._foreign("its lines are others")

    def _check_rest(self, ledger: Ledger) -> None:
        """Check the lines that were written and not recorded; cut off an incomplete one."""
        self._file.seek(self._size)
        while outcomes := ledger.outcomes(self._sequence, _PAGE_SIZE):
            for outcome in outcomes:
                expected = _line(outcome, ledger)
                if self._read(len(expected)) != expected:
                    self._cut_off()
                    return
                self._sequence, self._size = outcome.sequence, self._size + len(expected)
        self._cut_off()

    def _cut_off(self) -> None:
        self._file.seek(self._size)
        rest = self._read(_LONGEST_INCOMPLETE_LINE)
        if b"\n" in rest or len(rest) == _LONGEST_INCOMPLETE_LINE:
            raise self._foreign(f"after byte {self._size} it holds lines of something else")
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
        advice = "move it away or name another file, and all replies are written again"
        return LedgerError(f"is not what the ledger has written: {reason}; {advice}", str(self._path))


def _line(outcome: RecordedOutcome, ledger: Ledger) -> bytes:
    with LEDGER.errors(ledger.path):
        return output_line(outcome.id, outcome.document, outcome.fields)
