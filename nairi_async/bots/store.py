"""What a bot keeps about its chats, and where: records and stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from attrs import evolve, frozen

from nairi_async._nairi.results import Reply
from nairi_async.errors import TurnFailedError

if TYPE_CHECKING:
    from nairi_async.dialogue import Answer

MAX_KEYS: Final = 100
"""How many prompts of a chat are remembered, to recognise a message that the platform delivers again."""


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

    def with_prompt(self, key: str | None) -> Record:
        """Return the record while a prompt is running."""
        keys = self.keys if key is None else (*self.keys, key)[-MAX_KEYS:]
        return evolve(self, is_open=True, keys=keys)

    def with_outcome(self, outcome: Answer | TurnFailedError | None) -> Record:
        """Return the record after the reply was handed over, or the failure was reported."""
        turn = outcome.turn if isinstance(outcome, Reply | TurnFailedError) else None
        return evolve(self, is_open=False, last_message_id=turn.message_id if turn else self.last_message_id)


class Store(Protocol):
    """Where records are kept. Implement it to keep them elsewhere, such as in Redis; one process answers a chat.

    When `save` returns, the record must be safe: this is what keeps a prompt from running twice after a crash. What
    `load` or `save` raises before a prompt was sent goes to the caller of `Chats.ask`.
    """

    async def load(self, name: str) -> Record | None:
        """Return the record that was saved last under that name; `None` if there is none."""
        ...

    async def save(self, name: str, record: Record) -> None:
        """Save a record, replacing an earlier one of that name."""
        ...

    async def open_names(self) -> list[str]:
        """Return the names of all records with `is_open`."""
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
        """Return the names of all records with `is_open`."""
        return [name for name, record in self._records.items() if record.is_open]
