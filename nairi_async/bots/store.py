"""Which dialogue belongs to which chat: what is kept of it, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from attrs import evolve, frozen

from nairi_async._nairi.results import Reply
from nairi_async.errors import TurnFailedError

if TYPE_CHECKING:
    from nairi_async.dialogue import Answer

KEYS_KEPT: Final = 100
"""How many prompts of a chat are remembered, so that one delivered again is known."""


@frozen
class Record:
    """What is known of one chat."""

    dialogue_id: str | None = None
    """The service's id of the dialogue; `None` where none has begun, or its id never came back."""
    is_open: bool = False
    """Whether a prompt may be running, or its answer was not handed over: from before it leaves until then."""
    last: str | None = None
    """The service's id of the last prompt that was answered; `None` where there is none, or the service tells none."""
    keys: tuple[str, ...] = ()
    """The platform's ids of the prompts that were taken on, the latest last; at most a hundred."""

    def asking(self, key: str | None) -> Record:
        """The record while a prompt is under way."""
        keys = self.keys if key is None else (*self.keys, key)[-KEYS_KEPT:]
        return evolve(self, is_open=True, keys=keys)

    def answered(self, outcome: Answer | TurnFailedError | None) -> Record:
        """The record once the answer was handed over, or the failure was told."""
        turn = outcome.turn if isinstance(outcome, Reply | TurnFailedError) else None
        return evolve(self, is_open=False, last=turn.message_id if turn else self.last)


class Store(Protocol):
    """Where records are kept. One process at a time answers a chat; other keepers, such as Redis, are easily written.

    `save` must have the record safe when it returns: that is what keeps a prompt from running twice after a crash.
    Whatever either raises before a prompt was sent goes to the caller of `Chats.ask`.
    """

    async def load(self, name: str) -> Record | None:
        """What was saved last under that name; `None` for a new one."""
        ...

    async def save(self, name: str, record: Record) -> None:
        """Keep a record, in the place of any there was."""
        ...

    async def open_names(self) -> list[str]:
        """The names of all records that say `is_open`."""
        ...


class MemoryStore:
    """Records that live as long as the process."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    async def load(self, name: str) -> Record | None:
        """What was saved last under that name; `None` for a new one."""
        return self._records.get(name)

    async def save(self, name: str, record: Record) -> None:
        """Keep a record, in the place of any there was."""
        self._records[name] = record

    async def open_names(self) -> list[str]:
        """The names of all records that say `is_open`."""
        return [name for name, record in self._records.items() if record.is_open]
