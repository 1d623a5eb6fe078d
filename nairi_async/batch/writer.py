"""The thread of a ledger, which also writes the output: each line after the commit of its outcome."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from nairi_async._core.commit_thread import CommitThread
from nairi_async._nairi.session import API_URL
from nairi_async.batch.ledger import Ledger
from nairi_async.batch.ledger_file import LEDGER
from nairi_async.batch.replies_file import RepliesFile

if TYPE_CHECKING:
    from pathlib import Path

    from nairi_async.clock import Clock

# Seconds between two syncs of the output; lines that were written since the last one are checked after a crash.
_SYNC_INTERVAL: Final = 1.0


class Writer(CommitThread[Ledger]):
    """A ledger, used from the event loop on which it was opened.

    After a failure no more calls run: each one raises the same `LedgerError`, and what was committed before is kept.
    """

    def __init__(self, path: Path, agent_id: str, output: Path | None, clock: Clock, base_url: str) -> None:
        super().__init__(LEDGER, path, clock, ends_on_failure=True)
        self._agent_id, self._base_url, self._output_path = agent_id, base_url, output
        self._output: RepliesFile | None = None
        self._synced_at = 0.0

    @classmethod
    async def open(
        cls, path: Path, agent_id: str, output: Path | None, clock: Clock, *, base_url: str = API_URL
    ) -> Writer:
        """Open the ledger, and write what its output lacks.

        Raises:
            LedgerError: the ledger or the output cannot be used.
        """
        writer = cls(path, agent_id, output, clock, base_url)
        await writer.start()
        return writer

    @property
    def ledger(self) -> Ledger:
        """The ledger, of which the event loop may read `totals` and set `handled`."""
        return self.database

    def open_database(self) -> Ledger:
        """Open the output, then the ledger; called in the thread."""
        if self._output_path is not None:
            self._output = RepliesFile(self._output_path, has_ledger=self._path.exists())
        try:
            ledger = Ledger(self._path, self._agent_id, self._base_url)
        except BaseException:
            if self._output is not None:
                self._output.discard()
            raise
        try:
            # The first commit records where the output begins, before its first line is written.
            if self._output is not None:
                self._output.begin(ledger)
        except BaseException:
            ledger.close()
            raise
        self._synced_at = time.monotonic()
        return ledger

    def before_commit(self, database: Ledger, *, is_last: bool) -> None:
        """Make the output durable from time to time; called in the thread."""
        if self._output is not None and (is_last or time.monotonic() - self._synced_at >= _SYNC_INTERVAL):
            self._output.sync(database)
            self._synced_at = time.monotonic()

    def after_commit(self, database: Ledger, *, is_last: bool) -> None:
        """Write the lines of the outcomes that were committed; called in the thread."""
        if self._output is not None:
            self._output.catch_up(database)
            if is_last:
                self._output.sync(database)

    def after_close(self) -> None:
        """Close the output; called in the thread."""
        if self._output is not None:
            self._output.close()
