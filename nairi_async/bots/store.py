"""What a bot keeps about its chats, and where: records and stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable
from uuid import uuid4

from attrs import asdict, evolve, field

from nairi_async._core.records import frozen
from nairi_async._nairi.results import Reply
from nairi_async.bots.capabilities import NamesMessages
from nairi_async.errors import TurnFailedError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from nairi_async.dialogue import Answer

MAX_KEYS: Final = 100
"""How many prompts of a chat are remembered, to recognise a message that the platform delivers again."""


@frozen
class ChatPrompt:
    """A prompt that was accepted, kept until its reply was handed over."""

    text: str
    """The prompt itself."""
    key: str | None = None
    """The platform's id of the message."""
    attachment_ids: tuple[str, ...] = ()
    """The service's ids of its files, once they are uploaded."""
    has_files: bool = False
    """Whether it has files that the store does not know: only the process that accepted it can ask it."""
    sent_after: float | None = None
    """Seconds since the Unix epoch, just before it was sent, by the service's clock or the machine's, whichever was
    behind; `None` while it waits."""
    sent_before: float | None = None
    """The same, by whichever was ahead, when the call that sent it had ended without a reply; `None` if the process
    ended first."""
    id: str = field(factory=lambda: uuid4().hex)
    """Distinguishes it from other prompts of the chat, which may have the same text and no key."""


@frozen
class Record:
    """What is known about one chat."""

    dialogue_id: str | None = None
    """The service's id of the dialogue; `None` if none has begun, or if its id never arrived."""
    is_open: bool = False
    """Whether a prompt may be running, or its reply was not handed over: set before the prompt is sent."""
    last_message_id: str | None = None
    """The service's id of the last prompt that was answered; `None` if there is none, or the service names none."""
    keys: tuple[str, ...] = ()
    """The platform's ids of the prompts that were accepted, the latest last; at most a hundred."""
    prompt: ChatPrompt | None = None
    """The prompt that may be running, or whose reply was not handed over."""
    waiting: tuple[ChatPrompt, ...] = ()
    """Prompts that wait behind it, in order."""

    @property
    def is_unfinished(self) -> bool:
        """Whether a process that ends now leaves something to recover."""
        return self.is_open or bool(self.waiting)

    def is_waiting(self, prompt: ChatPrompt) -> bool:
        """Return whether a prompt is among those that wait."""
        return any(each.id == prompt.id for each in self.waiting)

    def with_waiting(self, prompt: ChatPrompt) -> Record:
        """Return the record after a prompt was accepted that has to wait."""
        return evolve(self, waiting=(*self.waiting, prompt), keys=self._keys_with(prompt))

    def with_prompt(self, prompt: ChatPrompt, *, last_message_id: str | None = None) -> Record:
        """Return the record while a prompt is running."""
        return evolve(
            self,
            is_open=True,
            prompt=prompt,
            waiting=self._waiting_without(prompt),
            keys=self._keys_with(prompt),
            last_message_id=last_message_id or self.last_message_id,
        )

    def without_prompt(self, prompt: ChatPrompt, before: Record) -> Record:
        """Return the record after a prompt did not run: open as it was `before`, and its key free again."""
        return evolve(
            self,
            is_open=before.is_open,
            prompt=before.prompt,
            last_message_id=before.last_message_id,
            waiting=self._waiting_without(prompt),
            keys=tuple(key for key in self.keys if key != prompt.key),
        )

    def with_prompt_kept(self, prompt: ChatPrompt, before: Record) -> Record:
        """Return the record after a prompt did not run that is to be asked later: it waits or is open as `before`."""
        kept = before.is_waiting(prompt) and not self.is_waiting(prompt)
        return evolve(
            self,
            is_open=before.is_open,
            prompt=before.prompt,
            last_message_id=before.last_message_id,
            waiting=(prompt, *self.waiting) if kept else self.waiting,
        )

    def with_outcome(self, outcome: Answer | TurnFailedError | None) -> Record:
        """Return the record after the reply was handed over, or the failure was reported."""
        message_id = message_id_of(outcome) or self.last_message_id
        return evolve(self, is_open=False, prompt=None, last_message_id=message_id)

    def to_dict(self) -> dict[str, Any]:
        """Return the record in a form for `json.dumps`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Record:
        """Return the record that `to_dict` gave.

        Raises:
            ValueError: it is not such a document.
        """
        try:
            prompt, waiting = document["prompt"], document["waiting"]
            return cls(
                _text(document["dialogue_id"]),
                bool(document["is_open"]),
                _text(document["last_message_id"]),
                tuple(str(key) for key in _list(document["keys"])),
                None if prompt is None else _prompt(prompt),
                tuple(_prompt(each) for each in _list(waiting)),
            )
        except (LookupError, TypeError) as error:
            raise ValueError(f"the record is damaged: {error!r}") from error

    def _keys_with(self, prompt: ChatPrompt) -> tuple[str, ...]:
        if prompt.key is None or prompt.key in self.keys:
            return self.keys
        return (*self.keys, prompt.key)[-MAX_KEYS:]

    def _waiting_without(self, prompt: ChatPrompt) -> tuple[ChatPrompt, ...]:
        return tuple(each for each in self.waiting if each.id != prompt.id)


def message_id_of(outcome: Answer | TurnFailedError | None) -> str | None:
    """Return the service's id of the prompt behind an outcome, or of its reply, if the service names one."""
    if isinstance(outcome, NamesMessages):
        return outcome.user_message_id or outcome.message_id
    turn = outcome.turn if isinstance(outcome, Reply | TurnFailedError) else None
    return turn.message_id if turn else None


def _prompt(document: Mapping[str, Any]) -> ChatPrompt:
    return ChatPrompt(
        str(document["text"]),
        _text(document["key"]),
        tuple(str(each) for each in _list(document["attachment_ids"])),
        bool(document["has_files"]),
        _number(document["sent_after"]),
        _number(document["sent_before"]),
        str(document["id"]),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"a text is needed, not {type(value).__name__}")
    return value


def _list(value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"a list is needed, not {type(value).__name__}")
    return value


class Store(Protocol):
    """Where records are kept. Implement it to keep them elsewhere, such as in Redis; one process answers a chat.

    When `save` returns, the record must be safe: this is what keeps a prompt from running twice after a crash. What
    `load` or `save` raises before a prompt was sent goes to the caller of `Chats.ask`, which waits for them for as long
    as they take: bound them. `Record.to_dict` gives a form for JSON.
    """

    async def load(self, name: str) -> Record | None:
        """Return the record that was saved last under that name; `None` if there is none."""
        ...

    async def save(self, name: str, record: Record) -> None:
        """Save a record, replacing an earlier one of that name."""
        ...

    async def open_names(self) -> list[str]:
        """Return the names of all records that are `is_unfinished`."""
        ...

    async def dialogue_ids(self) -> Collection[str]:
        """Return the dialogue ids of all records: a lost dialogue is not one that another chat has."""
        ...


@runtime_checkable
class SharedStore(Store, Protocol):
    """A store that several processes use at once: each chat is busy in one of them at a time."""

    async def acquire(self, name: str) -> None:
        """Wait until no other process has the chat, and keep others from it until `release`."""
        ...

    def release(self, name: str) -> None:
        """Let other processes have the chat."""
        ...


class MemoryStore:
    """Records that live as long as the process."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def __repr__(self) -> str:
        return f"<MemoryStore: {len(self._records)} chats>"

    async def load(self, name: str) -> Record | None:
        """Return the record that was saved last under that name; `None` if there is none."""
        return self._records.get(name)

    async def save(self, name: str, record: Record) -> None:
        """Save a record, replacing an earlier one of that name."""
        self._records[name] = record

    async def open_names(self) -> list[str]:
        """Return the names of all records that are `is_unfinished`."""
        return [name for name, record in self._records.items() if record.is_unfinished]

    async def dialogue_ids(self) -> set[str]:
        """Return the dialogue ids of all records."""
        return {record.dialogue_id for record in self._records.values() if record.dialogue_id is not None}
