"""The steps of one stream, which tasks may share: one at a time is under way.

A lock would do as well, but it costs more than what is read in a step, and a stream may have thousands.
"""

from __future__ import annotations

import asyncio

from nairi_async.errors import SessionClosedError


class Steps:
    """Lets one task at a time take a step; the others wait until it is over, and then try again.

    A task that finds no step under way sets `is_under_way`, and calls `end` when its step is over.
    """

    __slots__ = ("_loop", "_waiting", "is_under_way")

    def __init__(self) -> None:
        self.is_under_way: bool = False
        """Whether a task takes a step."""
        self._waiting: list[asyncio.Future[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def first(self) -> None:
        """Note the event loop of the first step, in which all others have to be taken."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()

    async def wait(self) -> None:
        """Wait until the step is over.

        Raises:
            SessionClosedError: it is taken in another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop not in {None, loop}:
            raise SessionClosedError("this belongs to a session of another event loop; make one session per loop")
        over = loop.create_future()
        self._waiting.append(over)
        await over

    def end(self) -> None:
        """End the step, and let the others try."""
        self.is_under_way = False
        waiting, self._waiting = self._waiting, []
        for over in waiting:
            if not over.done():
                over.set_result(None)
