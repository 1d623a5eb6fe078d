"""Telling a watch while it runs: status changes, progress and messages, with the seconds since the beginning."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from nairi_async.cli.output import message_entry, spoken_entry, status_entry
from nairi_async.models import TERMINAL_STATUSES

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async._nairi.polling.watch import Watch
    from nairi_async.cli.style import Screen
    from nairi_async.clock import Clock
    from nairi_async.models import Message

# A watch says what status it saw last, but hands over only messages.
_TICK: Final = 0.05


class Narrator:
    """Tells on a screen what happens, beginning now."""

    def __init__(self, screen: Screen, clock: Clock) -> None:
        self._screen = screen
        self._clock = clock
        self._started_at = clock.monotonic()
        self._status: str | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock.monotonic() - self._started_at

    def say(self, role: str, text: str) -> None:
        """Show what somebody says."""
        self._screen.show(spoken_entry(role, text, self._when, self._screen.style))

    def tell(self, message: Message) -> None:
        """Show one message."""
        self._screen.show(message_entry(message, self._when, self._screen.style))

    async def follow(self, watch: Watch, tell: Callable[[Message], None]) -> list[Message]:
        """Hand each message of a watch to `tell` and show each status; returns the non-progress messages."""
        self._status = None
        ticking = asyncio.create_task(self._tick(watch))
        kept: list[Message] = []
        try:
            async for message in watch:
                # The end is told behind what it brought; the next tick or the end of the loop does it.
                if watch.status not in TERMINAL_STATUSES:
                    self._tell_status(watch)
                tell(message)
                if message.role != "progress":
                    kept.append(message)
            self._tell_status(watch)
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
        return kept

    @property
    def _when(self) -> str:
        return f"{self.elapsed:.1f} s"

    def _tell_status(self, watch: Watch) -> None:
        if watch.status not in {None, self._status}:
            self._status = watch.status
            self._screen.show(status_entry(self._status or "", self._when, self._screen.style))

    async def _tick(self, watch: Watch) -> None:
        while True:
            await self._clock.sleep(_TICK)
            self._tell_status(watch)
