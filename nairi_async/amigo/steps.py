"""The steps of one stream, which tasks may share: one at a time is under way.

A lock would do as well, but it costs more than what is read in a step, and a stream may have thousands.
"""

from __future__ import annotations

import asyncio

from nairi_async.errors import SessionClosedError


class Steps:
    """Lets one task at a time take a step; the others wait until it is over, and then try again."""

    __slots__ = ("_is_under_way", "_loop", "_waiting")

    def __init__(self) -> None:
        self._is_under_way = False
        self._waiting: list[asyncio.Future[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def try_begin(self) -> bool:
        """Begin a step, unless one is under way; return whether it was begun."""
        if self._is_under_way:
            return False
        self._is_under_way = True
        self._loop = asyncio.get_running_loop()
        return True

    async def wait(self) -> None:
        """Wait until the step is over.

        Raises:
            SessionClosedError: it is taken in another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            raise SessionClosedError("this belongs to a session of another event loop; make one session per loop")
        over = loop.create_future()
        self._waiting.append(over)
        await over

    def end(self) -> None:
        """End the step, and let the others try."""
        self._is_under_way = False
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for over in waiting:
                if not over.done():
                    over.set_result(None)
