"""What became of an interaction whose stream broke off: looked up among the messages, never sent again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from attrs import define, field

from nairi_async.amigo.models import AmigoReply
from nairi_async.errors import InteractionUnknownError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nairi_async.amigo.api import Api
    from nairi_async.amigo.interaction import Interaction
    from nairi_async.amigo.models import AmigoMessage, ConversationInfo
    from nairi_async.amigo.outgoing_message import OutgoingMessage

# Seconds between two looks: the limit for reading messages is 20 a minute for the whole organisation.
_FIRST_WAIT: Final = 2.0
_LONGEST_WAIT: Final = 15.0
# Seconds for which a conversation that has begun is waited for to hold something.
_PATIENCE: Final = 60.0
# How far the service's clock may be from ours where it has not told its time.
_CLOCKS_DIFFER: Final = 60.0
# Times are printed with limited precision.
_PRECISION: Final = 1.0


@define
class LostInteraction:
    """An interaction, and what tells it from others."""

    interaction: Interaction
    """What its events have told."""
    saying: OutgoingMessage
    """What was said."""
    service_id: str | None = None
    """The service, for a conversation whose id never came."""
    started_at: float = -math.inf
    """When it was sent, by the session's monotonic clock."""
    excluded: set[str] = field(factory=set)
    """Messages and interactions that are known to be earlier ones."""

    async def settle(self, api: Api, timeout: float) -> AmigoReply | None:
        """The reply, once it is found; `None` if nothing is found within the time."""
        clock = api.executor.clock
        deadline, wait = clock.monotonic() + timeout, _FIRST_WAIT
        while True:
            reply = await self._look(api)
            if reply is not None:
                return reply
            if clock.monotonic() + wait > deadline:
                return None
            await clock.sleep(wait)
            wait = min(_LONGEST_WAIT, wait * 1.5)

    async def unfinished(self, api: Api) -> str | None:
        """The conversation that this interaction has begun, if one is unfinished that holds what was said.

        One that holds nothing yet is waited for: it may be somebody else's.
        """
        if self.saying.text is None:
            return None
        clock, earliest = api.executor.clock, self._earliest(api)
        deadline, wait = clock.monotonic() + _PATIENCE, _FIRST_WAIT
        while True:
            ids = await self._candidates(api, earliest, ("is_finished", "false"))
            holding = [await self._holds_it(api, id_, earliest) for id_ in ids]
            if True in holding or None not in holding or clock.monotonic() + wait > deadline:
                return ids[holding.index(True)] if holding.count(True) == 1 else None
            await clock.sleep(wait)
            wait = min(_LONGEST_WAIT, wait * 1.5)

    async def _holds_it(self, api: Api, conversation_id: str, earliest: float) -> bool | None:
        """Whether a conversation holds what was said; `None` while it holds nothing."""
        page = await api.messages(conversation_id, [("sort_by", "+created_at"), ("limit", "50")])
        return any(self._is_mine(row, earliest) for row in page.rows) if page.rows else None

    async def _look(self, api: Api) -> AmigoReply | None:
        earliest = self._earliest(api)
        known = self.interaction.conversation_id
        ids = [known] if known is not None else await self._candidates(api, earliest)
        found = [reply for id_ in ids for reply in await self._replies(api, id_, earliest)]
        if len(found) > 1:
            told = f"{len(found)} interactions may be the one that is looked for"
            raise InteractionUnknownError(told)
        return found[0] if found else None

    async def _candidates(self, api: Api, earliest: float, *which: tuple[str, str]) -> list[str]:
        """Conversations of the service that may have been begun by this interaction."""
        query = [("user_id", api.user_id), ("service_id", self.service_id or ""), ("sort_by", "-created_at")]
        page = await api.conversations([*query, *which, ("limit", "5")])
        rows: Sequence[ConversationInfo] = page.rows
        return [row.id for row in rows if row.id and _is_since(row.created_at, earliest)]

    async def _replies(self, api: Api, conversation_id: str, earliest: float) -> list[AmigoReply]:
        page = await api.messages(conversation_id, [("sort_by", "-created_at"), ("limit", "50")])
        rows: list[AmigoMessage] = sorted(page.rows, key=_moment)
        groups = dict.fromkeys(row.interaction_id for row in rows if self._is_mine(row, earliest))
        replies = [_reply(conversation_id, [row for row in rows if row.interaction_id == group]) for group in groups]
        return [reply for reply in replies if reply is not None]

    def _is_mine(self, row: AmigoMessage, earliest: float) -> bool:
        begun = self.interaction.begun
        if begun is not None and begun.message_id:
            return row.id == begun.message_id
        if not _is_since(row.created_at, earliest) or not self.excluded.isdisjoint((row.id, row.interaction_id)):
            return False
        if self.saying.text is not None:
            return row.message_type == self.saying.message_type and row.message.strip() == self.saying.text.strip()
        if self.saying.voice is not None:
            return row.message_type == self.saying.message_type and row.format == "voice"
        return row.message_type == "agent-message"

    def _earliest(self, api: Api) -> float:
        """The earliest time, by the service's clock, at which it may have come there."""
        executor = api.executor
        earliest, _ = executor.server_clock.at(self.started_at)
        if not math.isfinite(earliest):
            earliest = executor.clock.time() - (executor.clock.monotonic() - self.started_at) - _CLOCKS_DIFFER
        return earliest - _PRECISION


def _reply(conversation_id: str, rows: Iterable[AmigoMessage]) -> AmigoReply | None:
    """What the messages of one interaction say; nothing while the agent has said nothing."""
    said = [row for row in rows if row.message_type == "agent-message"]
    if not said:
        return None
    asked = next((row for row in rows if row.message_type in {"user-message", "external-event"}), None)
    return AmigoReply(
        text="\n\n".join(row.message for row in said),
        conversation_id=conversation_id,
        interaction_id=said[-1].interaction_id,
        message_id=said[-1].id,
        user_message_id=asked.id if asked is not None else None,
        user_message=asked.message if asked is not None else None,
    )


def _is_since(created_at: object, earliest: float) -> bool:
    timestamp = getattr(created_at, "timestamp", None)
    return timestamp is None or timestamp() >= earliest


def _moment(row: AmigoMessage) -> float:
    return row.created_at.timestamp() if row.created_at is not None else 0.0
