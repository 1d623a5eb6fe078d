"""What is new in a conversation: reads go in, new messages come out, each once and in order. Pure: no clock, no I/O.

The service repeats its whole history on each read, may show a reply before or after the status that announces it, and
documents no sort key (https://nairi.ai/docs/api/conversations/list-messages). So identity is the message id. Order is
the time of creation, and the position in the list where times are equal or missing. A status that was once terminal
stays terminal.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from nairi_async._nairi.polling.list_order import NOTHING_KNOWN, KnownPrompts, ListOrder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nairi_async.models import Message

_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)

_Place = tuple[datetime, float]
"""The final place of a message: its time and, among equal times, its rank."""


class Timeline:
    """One watcher's view of one conversation.

    Args:
        turn: The user message whose turn is watched; without it, the whole conversation is.
        after: The message behind which to begin; it was delivered before.
        progress: Whether progress messages are delivered as well.
        latest: A user message that is known to exist: until a read has shown it, the conversation has not ended.
        prompts: The user messages that are known, to learn the order of the list from.

    A message is delivered once: as soon as it is final and everything before it was delivered, or by `finish`. Only
    progress is delivered again, under its old id, when its content has changed since: a running commentary may grow.
    A user message is final from the start, because its status is the turn's and its text does not change.
    """

    def __init__(
        self,
        *,
        turn: str | None = None,
        after: str | None = None,
        progress: bool = False,
        latest: str | None = None,
        prompts: KnownPrompts = NOTHING_KNOWN,
    ) -> None:
        self._turn = turn
        self._latest = latest
        self._anchors = tuple(anchor for anchor in (turn, after) if anchor is not None)
        self._progress = progress
        self._order = ListOrder(prompts)
        self._places: dict[str, _Place] = {}
        self._single_reads: dict[str, Message] = {}
        self._users: dict[str, Message] = {}
        # Messages that a turn ends with: replies, and notices, of which the last explains a failure.
        self._replies: set[str] = set()
        self._notices: set[str] = set()
        self._undecided: dict[str, Message] = {}
        self._waiting: dict[str, Message] = {}
        # Delivered, or known not to be wanted.
        self._decided: set[str] = set()
        # Of delivered progress: when it had last changed, and hashes of the contents that were delivered, since an old
        # read that shows an old content again brings nothing new.
        self._delivered_progress: dict[str, tuple[datetime, set[int]]] = {}

    @property
    def status(self) -> str | None:
        """The last status seen of the watched turn, or of the newest user message; `None` before any was seen."""
        user = self.user
        return None if user is None else user.status

    @property
    def user(self) -> Message | None:
        """The watched turn's user message, or the newest; `None` before any was seen."""
        return self._users.get(self._turn) if self._turn is not None else self._newest_user()

    @property
    def has_ended(self) -> bool:
        """Whether the watched turn, or every user message seen of the conversation, is terminal."""
        return self.open_user is None

    @property
    def has_failed(self) -> bool:
        """Whether the watched turn is known to have ended as `failed`."""
        return self._turn is not None and self.status == "failed"

    @property
    def open_user(self) -> str | None:
        """The user message whose end is still awaited; `None` if there is none."""
        if self._turn is not None:
            user = self._users.get(self._turn)
            return None if user is not None and user.is_terminal else self._turn
        if self._latest is not None and self._latest not in self._users:
            return self._latest
        return next((user.id for user in self._users.values() if not user.is_terminal), None)

    @property
    def prompts(self) -> int:
        """How many user messages were seen."""
        return len(self._users)

    @property
    def missing(self) -> str | None:
        """The id of a message that the order depends on and that no read has shown yet; `None` if there is none."""
        seen = self._places.keys() | self._single_reads.keys()
        wanted = self._anchors if self._latest is None else (*self._anchors, self._latest)
        return next((message_id for message_id in wanted if message_id not in seen), None)

    def lags(self, listed: Sequence[Message]) -> bool:
        """Return whether a read of the whole is older than an end that a read of the user message by itself showed."""
        ended = [message.id for message in self._single_reads.values() if message.is_terminal]
        if not ended:
            return False
        statuses = {message.id: message.is_terminal for message in listed}
        awaited = (self._turn, self._latest)
        return any(not statuses.get(id_, id_ not in awaited) for id_ in ended)

    def observe_message(self, message: Message) -> None:
        """Take in a read of one message by itself: its status, and its time in case no list shows it."""
        self._single_reads[message.id] = message
        self._learn_status(message)

    def observe(self, messages: Sequence[Message], *, is_ordered: bool = False) -> list[Message]:
        """Take in a read of the whole conversation, and return what can be delivered now, in order.

        `is_ordered` says that the oldest message is first; otherwise the list itself shows it.
        """
        positions = self._place(messages, is_ordered=is_ordered)
        fresh: dict[str, Message] = {}
        for message in messages:
            key = _key(message)
            self._learn_status(message)
            self._learn_role(message, key)
            if key in self._decided or key in self._anchors:
                if self._has_grown(key, message):
                    self._update(self._waiting, key, message)
                continue
            if key in self._waiting:
                self._update(self._waiting, key, message)
            else:
                self._update(fresh, key, message)
        for key, message in fresh.items():
            self._update(self._undecided, key, message)
        # A cursor may stand on a message that lists leave out; a turn's own message will be listed.
        known = self._single_reads
        self._place_by_single_read(anchor for anchor in self._anchors if anchor != self._turn and anchor in known)
        if all(anchor in self._places for anchor in self._anchors):
            self._decide(positions)
        return self._deliver(is_last=False)

    def finish(self) -> list[Message]:
        """Return everything that still waits, in order: the turn is over and was read to its end."""
        self._place_by_single_read(self._anchors)
        self._decide({})
        return self._deliver(is_last=True)

    def is_further(self, message: Message, cursor: str) -> bool:
        """Return whether a message stands behind the message that `cursor` names."""
        place = self._places.get(cursor)
        return place is None or self._places[_key(message)] > place

    def in_order(self, messages: Iterable[Message]) -> list[Message]:
        """Return messages that were observed in their order."""
        return sorted(messages, key=lambda message: self._places[_key(message)])

    def _place(self, messages: Sequence[Message], *, is_ordered: bool) -> dict[str, int]:
        """Give each new message its place, and return the positions in the list, the oldest first."""
        unique: dict[str, Message] = {}
        for message in messages:
            unique.setdefault(_key(message), message)
        listed = list(unique.values())
        ordered = listed if is_ordered else self._order.oldest_first(listed, self._places)
        positions = {_key(message): position for position, message in enumerate(ordered)}
        if unique.keys() <= self._places.keys():
            return positions
        # What is added to the end ranks behind all others; what is listed late, between its neighbours.
        following: dict[str, _Place] = {}
        next_known: _Place | None = None
        for key in reversed(positions):
            if (known := self._places.get(key)) is not None:
                next_known = known
            elif next_known is not None:
                following[key] = next_known
        previous: _Place = (_EARLIEST, -math.inf)
        for key, position in positions.items():
            if key not in self._places:
                time = ordered[position].created_at or previous[0]
                rank = float(len(self._places))
                behind = following.get(key)
                if behind is not None and behind[0] == time and previous[0] == time and previous[1] < behind[1]:
                    rank = (previous[1] + behind[1]) / 2.0
                self._places[key] = (time, rank)
            previous = self._places[key]
        return positions

    def _place_by_single_read(self, anchors: Iterable[str]) -> None:
        """Place anchors that no list has shown by the time that a read of the message by itself showed."""
        for anchor in anchors:
            if anchor not in self._places:
                read = self._single_reads.get(anchor)
                time = (read.created_at if read is not None else None) or _EARLIEST
                others = [self._places[user][0] for user in self._users if user in self._places]
                if anchor == self._turn and others and max(others) >= time:
                    # Its time does not distinguish it from earlier prompts: all that is listed was there before it.
                    self._places[anchor] = max(self._places.values())
                else:
                    # Before its equals: where a time decides nothing, to deliver too much loses nothing.
                    self._places[anchor] = (time, -1)

    def _learn_status(self, message: Message) -> None:
        if message.role == "user" or message.id == self._turn:
            self._update(self._users, message.id, message)

    def _learn_role(self, message: Message, key: str) -> None:
        if self._turn is not None and message.role == "assistant":
            self._replies.add(key)
        elif self._turn is not None and message.role == "system":
            self._notices.add(key)

    def _newest_user(self) -> Message | None:
        placed = [user for user in self._users if user in self._places]
        return self._users[max(placed, key=self._places.__getitem__)] if placed else None

    @staticmethod
    def _update(messages: dict[str, Message], key: str, message: Message) -> None:
        """Store the newer form; a late read that shows a terminal message unfinished does not replace it."""
        known = messages.get(key)
        # Progress is `completed` from the start, and may grow all the same.
        is_growing = message.role == "progress" and known is not None and _changed_at(message) >= _changed_at(known)
        if known is None or not known.is_terminal or is_growing:
            messages[key] = message

    def _has_grown(self, key: str, message: Message) -> bool:
        """Return whether delivered progress shows a content that was not delivered, and not from an older read."""
        delivered = self._delivered_progress.get(key)
        if delivered is None:
            return False
        changed_at, contents = delivered
        return _changed_at(message) >= changed_at and hash(message.content) not in contents

    def _decide(self, positions: dict[str, int]) -> None:
        """Decide for each undecided message whether it follows all anchors."""
        # Once for all messages: a list may hold thousands of prompts as well.
        first = self._turn if self._turn is not None and self._undecided and self._is_first_prompt(self._turn) else None
        for key, message in self._undecided.items():
            is_wanted = self._progress or message.role != "progress"
            if is_wanted and all(self._follows(key, anchor, positions, first) for anchor in self._anchors):
                self._waiting[key] = message
            else:
                self._decided.add(key)
        self._undecided.clear()

    def _follows(self, key: str, anchor: str, positions: dict[str, int], first: str | None) -> bool:
        """Return whether a message follows an anchor; `first` is the turn if it is the conversation's first."""
        if self._places[key] > self._places[anchor]:
            return True
        # Listed behind the first prompt of a conversation, but with an earlier time: nothing precedes that prompt, so
        # the times are wrong, not the list.
        return anchor == first and positions.get(key, -1) > positions.get(anchor, len(positions))

    def _is_first_prompt(self, anchor: str) -> bool:
        place = self._places[anchor]
        return all(user == anchor or self._places.get(user, place) >= place for user in self._users)

    def _deliver(self, *, is_last: bool) -> list[Message]:
        ready = []
        is_blocked = False
        next_turn = min((self._places[prompt] for prompt in self._later_prompts()), default=None)
        for key in sorted(self._waiting, key=self._places.__getitem__):
            message = self._waiting[key]
            if next_turn is not None and self._places[key] >= next_turn:
                self._leave_waiting(key)
            elif message.role == "progress" or is_last or (_is_final(message) and not is_blocked):
                # Progress is a running commentary: it neither waits for a reply to be final nor delays one.
                self._leave_waiting(key)
                ready.append(message)
                if message.role == "progress":
                    _, contents = self._delivered_progress.get(key, (_EARLIEST, set[int]()))
                    self._delivered_progress[key] = (_changed_at(message), contents | {hash(message.content)})
            else:
                is_blocked = True
        return ready

    def _leave_waiting(self, key: str) -> None:
        del self._waiting[key]
        self._decided.add(key)

    def _later_prompts(self) -> Iterator[str]:
        """Yield the user messages made after the watched turn had ended: they begin what is not of this turn.

        A prompt made while the turn was still running proves nothing, because the turn's reply follows it. Where the
        service does not stamp the end of a turn, a prompt that follows a reply counts as made after that reply.
        """
        turn = self._users.get(self._turn) if self._turn is not None else None
        if turn is None or not turn.is_terminal or turn.id not in self._places:
            return
        later = [user for user in self._users.values() if user.id in self._places and user.id != turn.id]
        if not later:
            return
        begun, ended = turn.created_at, turn.updated_at
        end = ended if begun is not None and ended is not None and ended > begun else None
        first_reply = self._first_reply(turn)
        for user in later:
            if end is not None and user.created_at is not None:
                is_later = user.created_at >= end
            else:
                is_later = first_reply is not None and self._places[user.id] > first_reply
            if is_later:
                yield user.id

    def _first_reply(self, turn: Message) -> _Place | None:
        """Return the place of the first message behind a prompt that may end its turn."""
        endings = self._replies | self._notices if turn.status == "failed" else self._replies
        begun = self._places[turn.id]
        return min((place for key in endings if (place := self._places[key]) > begun), default=None)


def _is_final(message: Message) -> bool:
    return message.is_terminal or message.role == "user"


def _changed_at(message: Message) -> datetime:
    return message.updated_at or message.created_at or _EARLIEST


def _key(message: Message) -> str:
    """Return the message id; for a message without one, everything that distinguishes it from others."""
    return message.id or f"\0{message.role}\0{message.created_at}\0{message.content}"
