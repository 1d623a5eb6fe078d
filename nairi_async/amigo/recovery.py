"""Finding an interaction among the messages of its conversation, after its stream broke off.

Nothing is sent again. An interaction counts as not kept only when that is certain: the service is done with it, and its
conversation holds no message that could be it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from nairi_async.amigo.finishing import ConversationStatus, read_status, waits
from nairi_async.amigo.models import AmigoReply
from nairi_async.errors import InteractionUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nairi_async.amigo.api import Api
    from nairi_async.amigo.conversation_locks import ConversationLock
    from nairi_async.amigo.models import AmigoMessage, ConversationInfo
    from nairi_async.amigo.sent_interaction import SentInteraction

# Seconds for which a new conversation may be without messages.
_EMPTY_TIMEOUT: Final = 60.0
# Seconds by which the service's clock may differ from ours, until a response has shown its time.
_CLOCK_DIFFERENCE: Final = 60.0
# Seconds by which a printed time may be too early.
_PRECISION: Final = 1.0
# How many reads of the messages, some seconds apart, that must agree before a message counts as absent: a list may lag.
_AGREEING_READS: Final = 2


class Recovery:
    """Looks for one interaction among the messages of its conversation."""

    def __init__(
        self,
        api: Api,
        turn: SentInteraction,
        lock: ConversationLock,
        is_taken: Callable[[str, SentInteraction], bool],
    ) -> None:
        self._api = api
        self._turn = turn
        self._lock = lock.resolve()
        self._is_taken = is_taken
        self._excluded = set(self._lock.known_ids) - set(turn.interaction.ids)
        self._other_texts = {(other.message.text or "").strip() for other in self._lock.unsettled}
        # Messages since it was sent that may be it, though their text is another one.
        self._similar: dict[str, None] = {}
        # The message itself, where the agent has not replied to it.
        self._unanswered: AmigoReply | None = None
        # Why a reply that was found may be another turn's, with the same message.
        self._ambiguity: str | None = None

    async def settle(self, timeout: float) -> AmigoReply | None:
        """Return the reply, or `None` if it is certain that the interaction was not kept.

        Raises:
            InteractionUnknownError: neither is certain within the timeout.
        """
        clock = self._api.executor.clock
        deadline, absent = clock.monotonic() + timeout, 0
        for wait in waits():
            was_done = self._turn.is_done
            were_done = all(turn.is_done for turn in self._equals())
            reply = await self._find()
            if reply is not None:
                return reply
            # What is still running may be saved as well, and then the order of the messages is that of the turns.
            absent = absent + 1 if was_done and (were_done or self._ambiguity is None) else 0
            if absent >= _AGREEING_READS:
                if self._ambiguity is not None:
                    raise self._unknown(self._ambiguity)
                if self._unanswered is not None:
                    return self._unanswered
                if self._similar:
                    raise self._unknown(f"its text may be that of {', '.join(self._similar)}")
                return None
            is_last = clock.monotonic() + wait > deadline
            if not was_done and (absent == 0 or is_last):
                await self._ask_whether_done()
            if is_last and not (self._turn.is_done and absent):
                raise self._unknown(
                    self._ambiguity
                    or "it is not among the messages, but may still be running: settle it again later, or finish the "
                    "conversation first, after which it is certain"
                )
            await self._api.sleep(wait)
        raise AssertionError("unreachable")  # pragma: no cover

    async def find_unfinished(self) -> str | None:
        """Return the unfinished conversation that holds this interaction's message, if there is one.

        Wait while a conversation has no messages: it may belong to another caller.
        """
        if self._turn.message.text is None:
            return None
        clock, earliest = self._api.executor.clock, self._earliest()
        deadline = clock.monotonic() + _EMPTY_TIMEOUT
        for wait in waits():
            ids = await self._candidates(earliest, ("is_finished", "false"))
            holding = [await self._holds_it(id_, earliest) for id_ in ids]
            if True in holding or None not in holding or clock.monotonic() + wait > deadline:
                return ids[holding.index(True)] if holding.count(True) == 1 else None
            await self._api.sleep(wait)
        raise AssertionError("unreachable")  # pragma: no cover

    async def _ask_whether_done(self) -> None:
        """Note that the service is done with the interaction, if its conversation is finished."""
        conversation_id = self._turn.interaction.conversation_id
        if conversation_id is not None:
            status = await read_status(self._api, conversation_id)
            if status in {ConversationStatus.FINISHED, ConversationStatus.GONE}:
                self._lock.finished()
                self._turn.is_done = True

    def _unknown(self, reason: str) -> InteractionUnknownError:
        error = InteractionUnknownError(f"whether the interaction is saved is not known: {reason}")
        error.conversation_id = self._turn.interaction.conversation_id
        return error

    async def _holds_it(self, conversation_id: str, earliest: float) -> bool | None:
        """Say whether a conversation holds the message; `None` while it holds none."""
        page = await self._api.messages(conversation_id, [("sort_by", "+created_at"), ("limit", "50")])
        return any(self._is_it(row, earliest) for row in page.rows) if page.rows else None

    async def _find(self) -> AmigoReply | None:
        earliest = self._earliest()
        known = self._turn.interaction.conversation_id
        ids = [known] if known is not None else await self._candidates(earliest)
        found = [reply for id_ in ids for reply in await self._replies(id_, earliest)]
        equals = self._equals()
        if len(found) == len(equals):
            # One at a time and in order, so the order of the messages is that of the turns.
            return found[equals.index(self._turn)]
        reason = f"{len(found)} interactions may be one of {len(equals)} with the same message"
        if len(found) > len(equals):
            raise self._unknown(reason)
        self._ambiguity = reason if found else None
        return None

    def _equals(self) -> list[SentInteraction]:
        """Return the turns that broke off with the same message, in order, this one included."""
        known = self._turn.interaction.conversation_id
        equals = [turn for turn in self._lock.unsettled if turn.is_like(self._turn)] if known is not None else []
        return equals if self._turn in equals else [self._turn]

    async def _candidates(self, earliest: float, *which: tuple[str, str]) -> list[str]:
        """Return conversations with the service that this interaction may have created."""
        query = [
            ("user_id", self._api.user_id),
            ("service_id", self._turn.service_id or ""),
            ("sort_by", "-created_at"),
        ]
        page = await self._api.conversations([*query, *which, ("limit", "5")])
        rows: Sequence[ConversationInfo] = page.rows
        return [
            row.id
            for row in rows
            if row.id and _is_since(row.created_at, earliest) and not self._is_taken(row.id, self._turn)
        ]

    async def _replies(self, conversation_id: str, earliest: float) -> list[AmigoReply]:
        page = await self._api.messages(conversation_id, [("sort_by", "-created_at"), ("limit", "50")])
        rows: list[AmigoMessage] = sorted(page.rows, key=created_at)
        groups = dict.fromkeys(row.interaction_id for row in rows if self._is_it(row, earliest))
        replies = [reply_of(conversation_id, [row for row in rows if row.interaction_id == group]) for group in groups]
        self._unanswered = next((reply for reply in replies if reply.message_id is None), None)
        return [reply for reply in replies if reply.message_id is not None]

    def _is_it(self, row: AmigoMessage, earliest: float) -> bool:
        named = self._turn.interaction.user_message
        if named is not None and named.message_id:
            return row.id == named.message_id
        if not _is_since(row.created_at, earliest) or not self._excluded.isdisjoint((row.id, row.interaction_id)):
            return False
        message = self._turn.message
        if message.text is None and message.voice is None:
            return row.message_type == "agent-message"
        if row.message_type != message.message_type:
            return False
        is_it = row.format == "voice" if message.text is None else row.message.strip() == message.text.strip()
        if not is_it and row.message.strip() not in self._other_texts:
            # The service may change a text.
            self._similar[row.id] = None
        return is_it

    def _earliest(self) -> float:
        """Return the earliest time, by the service's clock, at which the message may have arrived."""
        executor = self._api.executor
        earliest, _ = executor.server_clock.at(self._turn.sent_at)
        if not math.isfinite(earliest):
            earliest = self._turn.sent_time - _CLOCK_DIFFERENCE
        return earliest - _PRECISION


def reply_of(conversation_id: str, rows: Sequence[AmigoMessage]) -> AmigoReply:
    """Return the reply in the messages of one interaction; without `message_id` while the agent has said nothing."""
    replied = [row for row in rows if row.message_type == "agent-message"]
    asked = next((row for row in rows if row.message_type in {"user-message", "external-event"}), None)
    return AmigoReply(
        text="\n\n".join(row.message for row in replied),
        conversation_id=conversation_id,
        interaction_id=next((row.interaction_id for row in rows), None),
        message_id=replied[-1].id if replied else None,
        user_message_id=asked.id if asked is not None else None,
        user_message=asked.message if asked is not None else None,
    )


def _is_since(created_at: object, earliest: float) -> bool:
    timestamp = getattr(created_at, "timestamp", None)
    return timestamp is None or timestamp() >= earliest


def created_at(row: AmigoMessage) -> float:
    """Return when a message was made, in Unix time; 0 if the service did not say."""
    return row.created_at.timestamp() if row.created_at is not None else 0.0
