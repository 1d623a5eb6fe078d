"""Showing a watch on a screen while it runs: statuses, progress and messages, with the seconds since the start."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from nairi_async.cli.formatting import message_entry, spoken_entry, status_entry
from nairi_async.models import TERMINAL_STATUSES

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async._nairi.polling.watch import Watch
    from nairi_async.cli.screen import Screen
    from nairi_async.clock import Clock
    from nairi_async.models import Message

# Seconds between two checks of the status: a watch hands over messages only, and keeps the status that it saw last.
_STATUS_INTERVAL: Final = 0.05


class Narrator:
    """Shows what happens on a screen, from now on."""

    def __init__(self, screen: Screen, clock: Clock) -> None:
        self._screen = screen
        self._clock = clock
        self._started_at = clock.monotonic()
        self._status: str | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock.monotonic() - self._started_at

    def show_text(self, role: str, text: str) -> None:
        """Show a text of someone with that role."""
        self._screen.show(spoken_entry(role, text, self._when, self._screen.style))

    def show_message(self, message: Message) -> None:
        """Show one message."""
        self._screen.show(message_entry(message, self._when, self._screen.style))

    async def follow(self, watch: Watch, on_message: Callable[[Message], None]) -> list[Message]:
        """Give each message of a watch to `on_message` and show each status; return the non-progress messages."""
        self._status = None
        polling = asyncio.create_task(self._poll_status(watch))
        messages: list[Message] = []
        try:
            async for message in watch:
                # A terminal status is shown after the messages that came with it: by the next check, or at the end.
                if watch.status not in TERMINAL_STATUSES:
                    self._show_status(watch)
                on_message(message)
                if message.role != "progress":
                    messages.append(message)
            self._show_status(watch)
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
        return messages

    @property
    def _when(self) -> str:
        return f"{self.elapsed:.1f} s"

    def _show_status(self, watch: Watch) -> None:
        if watch.status not in {None, self._status}:
            self._status = watch.status
            self._screen.show(status_entry(self._status or "", self._when, self._screen.style))

    async def _poll_status(self, watch: Watch) -> None:
        while True:
            await self._clock.sleep(_STATUS_INTERVAL)
            self._show_status(watch)
