"""One lock for each conversation, shared by all of its handles: the service accepts one call at a time.

A lock also holds what is known of its conversation, so that every handle, and every call by id, knows the same: its id,
whether a call may be running at the service, whether the conversation is over, and which turns are unsettled.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from nairi_async.amigo.hold import Hold
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from nairi_async.amigo.models import AmigoReply
    from nairi_async.amigo.readers import Readers
    from nairi_async.amigo.sent_interaction import SentInteraction

# Ids of messages and interactions to remember of a conversation: those of its last hundred turns.
_MOST_IDS: Final = 300
# Locks to remember although no handle of their conversation is left.
_MOST_LOCKS: Final = 4096
# Unsettled turns to remember of a conversation.
_MOST_UNSETTLED: Final = 16


class ConversationLock:
    """The line of calls of one conversation, in order, and what is known of the conversation."""

    def __init__(self, conversation_id: str | None = None) -> None:
        self.id = conversation_id
        """The service's id; `None` until it is known."""
        self.has_id: asyncio.Event = asyncio.Event()
        """Set as soon as the id is known."""
        self.is_over: bool = False
        """Whether the conversation accepts no further message: it was finished, ended by the agent, or is gone."""
        self.may_be_busy: bool = False
        """Whether a call may be running at the service although this session does not hold its stream."""
        self.finish_was_sent: bool = False
        """Whether a finish was sent of which no response came."""
        self.first: SentInteraction | None = None
        """The interaction that created the conversation, if this session sent it."""
        self.last: SentInteraction | None = None
        """The last interaction that was sent."""
        self.unsettled: deque[SentInteraction] = deque(maxlen=_MOST_UNSETTLED)
        """Interactions that were sent and whose end was not seen."""
        self.known_ids: deque[str] = deque(maxlen=_MOST_IDS)
        """Messages and interactions that events named: each belongs to a turn whose end was seen."""
        self.holds: deque[Hold] = deque()
        """Calls under way and in line, in order."""
        self._merged_into: ConversationLock | None = None
        if conversation_id is not None:
            self.has_id.set()

    def __repr__(self) -> str:
        return f"<ConversationLock of {self.id}, {len(self.holds)} calls in line>"

    def resolve(self) -> ConversationLock:
        """Return the lock that took this one's place, when two turned out to be of the same conversation."""
        lock = self
        while lock._merged_into is not None:
            lock = lock._merged_into
        return lock

    @property
    def may_be_running(self) -> bool:
        """Whether an interaction that was sent may be running at the service, because its end was not seen."""
        return any(not turn.is_done for turn in self.unsettled)

    @property
    def is_held(self) -> bool:
        """Whether a call is under way, or in line."""
        return bool(self.resolve().holds)

    async def reserve(self, readers: Readers | None = None) -> Hold:
        """Take a place in line, after the calls before.

        A task that reads the conversation's own stream would wait for itself. Where the interaction is complete, the
        rest of that stream is read first.

        Raises:
            InvalidArgumentError: the task still reads a stream of the conversation.
        """
        lock = self.resolve()
        task = asyncio.current_task()
        for hold in tuple(lock.holds):
            if not hold.is_granted or not hold.is_used_by(task):
                continue
            stream = hold.stream() if hold.stream is not None else None
            if stream is None or not await stream.read_rest():
                raise InvalidArgumentError(
                    "this task still reads a stream of the conversation: read that stream to its end, or leave it with "
                    "`await stream.aclose()`, before the next call"
                )
        lock = self.resolve()
        hold = Hold(lock, readers)
        lock.holds.append(hold)
        lock.reader_ended()
        lock.grant_next()
        return hold

    def reader_ended(self) -> None:
        """Close a stream that its readers have left, if another call is in line."""
        lock = self.resolve()
        if len(lock.holds) > 1:
            lock.holds[0].check_readers()

    def remove(self, hold: Hold) -> None:
        """Take a call out of the line."""
        if hold in self.holds:
            self.holds.remove(hold)
        self.grant_next()

    def merge(self, other: ConversationLock) -> None:
        """Take the place of another lock, which turned out to be of the same conversation."""
        other._merged_into = self
        for hold in other.holds:
            hold.lock = self
            self.holds.append(hold)
        other.holds.clear()
        self.is_over = self.is_over or other.is_over
        self.may_be_busy = self.may_be_busy or other.may_be_busy
        self.known_ids.extend(other.known_ids)
        self.unsettled.extend(other.unsettled)
        self.last = self.last or other.last
        self.grant_next()

    def grant_next(self) -> None:
        """Let the first in line have its turn, if no call is under way."""
        if self.holds and not any(hold.is_granted for hold in self.holds):
            self.holds[0].grant()

    # What the turns of the conversation have shown.

    def sending(self, turn: SentInteraction) -> None:
        """Note that an interaction may be sent from now on."""
        turn.previous = (self.last, self.may_be_busy)
        self.last, self.may_be_busy = turn, True
        if self.id is None:
            self.first = turn
        self.unsettled.append(turn)

    def not_sent(self, turn: SentInteraction) -> None:
        """Note that an interaction was refused, or did not leave: all is as it was before."""
        if turn in self.unsettled:
            self.unsettled.remove(turn)
        if self.last is turn:
            self.last, self.may_be_busy = turn.previous
        if self.first is turn:
            self.first = None
        turn.previous = (None, False)

    def accepted(self, turn: SentInteraction) -> None:
        """Note that the service has accepted an interaction, and so is done with those before."""
        turn.previous = (None, False)
        for earlier in self.unsettled:
            earlier.is_done = earlier is not turn

    def left(self, turn: SentInteraction, *, is_whole: bool) -> None:
        """Note that the stream of an interaction was left, or has come to its end."""
        self.known_ids.extend(turn.interaction.ids)
        if turn.is_settled and turn in self.unsettled:
            self.unsettled.remove(turn)
        if self.last is turn:
            self.may_be_busy = not is_whole
        self.is_over = self.is_over or turn.interaction.ends_conversation

    def finished(self) -> None:
        """Note that the conversation is over, and the service done with all of its turns."""
        self.is_over, self.may_be_busy, self.finish_was_sent = True, False, False
        for turn in self.unsettled:
            turn.is_done = True


class ConversationLocks:
    """The lock of each conversation that is in use, and of those that were in use last."""

    def __init__(self) -> None:
        self._by_id: WeakValueDictionary[str, ConversationLock] = WeakValueDictionary()
        self._recent: OrderedDict[str, ConversationLock] = OrderedDict()

    def of(self, conversation_id: str) -> ConversationLock:
        """Return the lock of a conversation."""
        lock = self._by_id.get(conversation_id)
        if lock is None:
            lock = self._by_id[conversation_id] = ConversationLock(conversation_id)
            # A process that has ended may have left a call running.
            lock.may_be_busy = True
        self._keep(conversation_id, lock)
        return lock

    def new(self) -> ConversationLock:
        """Return the lock of a conversation that does not exist yet."""
        return ConversationLock()

    def bind(self, lock: ConversationLock, conversation_id: str) -> None:
        """Note the id of a conversation, as soon as it is known."""
        lock = lock.resolve()
        if lock.id == conversation_id:
            return
        known = self._by_id.get(conversation_id)
        lock.id = conversation_id
        if known is not None and known is not lock:
            lock.merge(known)
            known.id = conversation_id
        self._by_id[conversation_id] = lock
        self._keep(conversation_id, lock)
        lock.has_id.set()

    def is_taken(self, conversation_id: str, turn: SentInteraction) -> bool:
        """Say whether a conversation was created by another interaction than this one."""
        lock = self._by_id.get(conversation_id)
        return lock is not None and lock.first is not None and lock.first is not turn

    def settled(self, lock: ConversationLock, turn: SentInteraction, reply: AmigoReply | None) -> None:
        """Note what the messages say of an interaction: its reply, or that it was not kept."""
        lock = lock.resolve()
        if reply is not None and reply.conversation_id is not None:
            turn.interaction.conversation_id = reply.conversation_id
            self.bind(lock, reply.conversation_id)
            ids = (reply.user_message_id, reply.interaction_id, reply.message_id)
            lock.known_ids.extend(id_ for id_ in ids if id_)
        if turn in lock.unsettled:
            lock.unsettled.remove(turn)
        turn.is_done = True
        if reply is None and lock.last is turn:
            lock.may_be_busy = False

    def forget_id(self, lock: ConversationLock) -> None:
        """Note that a conversation is gone before it began: the next turn creates another."""
        lock = lock.resolve()
        if lock.id is not None:
            self._by_id.pop(lock.id, None)
            self._recent.pop(lock.id, None)
        lock.id = None
        lock.has_id.clear()

    def _keep(self, conversation_id: str, lock: ConversationLock) -> None:
        self._recent[conversation_id] = lock
        self._recent.move_to_end(conversation_id)
        while len(self._recent) > _MOST_LOCKS:
            self._recent.popitem(last=False)
