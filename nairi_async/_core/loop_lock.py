"""`LoopLock`: a lock that refuses to be used from another event loop."""

from __future__ import annotations

import asyncio
from typing import Literal

from nairi_async.errors import SessionClosedError

_OTHER_LOOP = "this belongs to a session of another event loop; make one session per loop"


class LoopLock(asyncio.Lock):
    """A lock for what belongs to a session.

    Used from another event loop, an `asyncio.Lock` raises a RuntimeError, or waits for a holder that never runs again.
    This one raises `SessionClosedError`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._holders_loop: asyncio.AbstractEventLoop | None = None

    async def acquire(self) -> Literal[True]:
        """Acquire the lock.

        Raises:
            SessionClosedError: the lock is held or awaited in another event loop.
        """
        loop = asyncio.get_running_loop()
        if self.locked() and self._holders_loop is not loop:
            raise SessionClosedError(_OTHER_LOOP)
        try:
            await super().acquire()
        except RuntimeError as error:
            raise SessionClosedError(_OTHER_LOOP) from error
        self._holders_loop = loop
        return True
