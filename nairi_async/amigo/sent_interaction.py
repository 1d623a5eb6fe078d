"""An interaction that is sent or was sent, and what distinguishes it from others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nairi_async._core.records import define
from nairi_async.amigo.interaction import InteractionEnd

if TYPE_CHECKING:
    from nairi_async.amigo.interaction import Interaction
    from nairi_async.amigo.outgoing_message import OutgoingMessage


@define(eq=False)
class SentInteraction:
    """One interaction, from the moment when it may be sent."""

    interaction: Interaction
    """What its events have said."""
    message: OutgoingMessage
    """The message."""
    service_id: str | None = None
    """The service, if the interaction creates the conversation."""
    sent_at: float = -math.inf
    """When it was sent, by the session's monotonic clock."""
    sent_time: float = -math.inf
    """The same in Unix time, by the machine's clock, which may be set afterwards."""
    is_done: bool = False
    """Whether the service is certainly done with it, although its stream did not show its end."""
    previous: tuple[SentInteraction | None, bool] = (None, False)
    """What the conversation's lock held before it."""

    @property
    def is_settled(self) -> bool:
        """Whether its events have said how it ended."""
        return self.interaction.end is not InteractionEnd.UNKNOWN

    def is_like(self, other: SentInteraction) -> bool:
        """Say whether another message cannot be distinguished from this one."""
        mine, others = self.message, other.message
        return (mine.text or "").strip() == (others.text or "").strip() and (
            mine.message_type == others.message_type and (mine.voice is None) == (others.voice is None)
        )
