"""When a prompt was sent, so that a later process can say whether it may still arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nairi_async._core.server_clock import ServerClock
from nairi_async._core.time_scales import Timestamps
from nairi_async._nairi.session_parts import sender_of

if TYPE_CHECKING:
    from nairi_async.clock import Clock
    from nairi_async.dialogue import Dialogues


class SendingTimes:
    """The times that a chat's record holds about a prompt.

    They are the service's where a session of Nairi has learnt them: the machine's clock may be set before a later
    process compares them with its own. Other sessions look up no prompt of an earlier process.
    """

    def __init__(self, session: Dialogues, target: str, clock: Clock) -> None:
        self._sender = sender_of(session)
        self._target = target
        self._timestamps = self._sender.timestamps if self._sender is not None else Timestamps(clock, ServerClock())

    async def before_sending(self, limit: float) -> float:
        """Return a Unix time before now, after a request for the service's time if no response has stated it yet.

        The request takes no longer than the limit, in seconds: the prompt must not wait for it in vain.
        """
        if self._sender is not None:
            await self._sender.observe_server_time(self._target, limit)
        return self._timestamps.earliest()

    def after_sending(self) -> float:
        """Return a Unix time after now."""
        return self._timestamps.latest()

    async def seconds_since(self, sent_before: float) -> float:
        """Return the seconds that have certainly passed since the time that `after_sending` gave."""
        if self._sender is not None:
            await self._sender.observe_server_time(self._target)
        return self._timestamps.seconds_since(sent_before)
