"""When the next read of one watcher is due, and when its whole wait is over. Survives cancellation between reads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from nairi_async.errors import NairiError, WatchTimeoutError
from nairi_async.transport.retry import is_transient
from nairi_async.watching.cadence import Cadence

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async.models import Turn
    from nairi_async.transport.caller import Caller
    from nairi_async.watching.cadence import Polling
    from nairi_async.watching.reads import SharedRead, Snapshot

_T = TypeVar("_T")


class Pace:
    """Keeps the appointments of one watcher.

    Args:
        timeout: Seconds for the whole wait, counted from the first `pause`: a watcher made now and used later loses
            none of it.
        timed_out: Makes the error to raise when that time is over.
    """

    def __init__(
        self, caller: Caller, polling: Polling, timeout: float, timed_out: Callable[[], WatchTimeoutError]
    ) -> None:
        self._clock = caller.clock
        self._random = caller.random
        self._polling = polling
        self._timeout = timeout
        self._timed_out = timed_out
        self._cadence: Cadence | None = None
        self._due = -math.inf
        self._deadline = math.inf

    async def pause(self) -> None:
        """Wait until the next read is due, or raise `WatchTimeoutError` when the whole wait is over before that."""
        self._begin()
        now = self._clock.monotonic()
        if self._due > now:
            await self._clock.sleep(min(self._due, self._deadline) - now)
        if self._is_over:
            raise self._timed_out()

    async def read(self, shared: SharedRead[_T], moment: float) -> Snapshot[_T]:
        """A read asked for at `moment` or later, cut short by the end of the whole wait."""
        try:
            return await shared.since(moment, deadline=self._deadline)
        except NairiError as error:
            if self._is_over and is_transient(error, repeatable=True, unreadable=True):
                raise self._timed_out() from error
            raise

    def looked(self, began: float, *, news: bool) -> None:
        """A read that began at this moment has come; the next is due when the cadence says.

        Counted from the beginning of the read, watchers that share reads fall into step.
        """
        self._due = began + self._begin().feed(began, news=news, jitter=self._random())

    def due_at(self, moment: float) -> None:
        """The next read is due at this moment, whatever the cadence says."""
        self._due = moment

    @property
    def _is_over(self) -> bool:
        return self._clock.monotonic() >= self._deadline

    def _begin(self) -> Cadence:
        if self._cadence is None:
            now = self._clock.monotonic()
            self._cadence = Cadence(self._polling, now)
            self._deadline = now + self._timeout
        return self._cadence


def watch_timed_out(what: str, turn: Turn | None, status: str | None, cursor: str | None) -> WatchTimeoutError:
    """The error of a wait that is over; `what` names the turn or conversation."""
    return WatchTimeoutError(
        f"{what} has not ended within the timeout; its last status was {status or 'never read'}", turn, status, cursor
    )
