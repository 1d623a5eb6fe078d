"""What a dialogue is, whichever service it is with: code written against this serves both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nairi_async.typing import Duration

__all__ = ["Answer", "Dialogue", "Dialogues"]


class Answer(Protocol):
    """What a service said in one turn."""

    @property
    def text(self) -> str:
        """The whole text; empty where the turn ended without any."""
        ...


class Dialogue(Protocol):
    """One conversation: its turns run one at a time, in the order in which they were asked."""

    @property
    def id(self) -> str | None:
        """The service's id of the conversation, for `resume`; `None` until it has begun."""
        ...

    async def ask(self, prompt: str, *, timeout: Duration | None = None) -> Answer:
        """Say something when its turn has come, and wait for the whole answer.

        Args:
            prompt: What to say; not blank.
            timeout: Seconds for the whole wait, turns before this one included.
        """
        ...


class Dialogues(Protocol):
    """A session that holds dialogues."""

    def conversation(self, target: str, /) -> Dialogue:
        """A new dialogue with an agent or service of this name; it begins with its first prompt."""
        ...

    def resume(self, id: str, /) -> Dialogue:  # noqa: A002 - the word that `Dialogue` uses
        """A dialogue that began earlier, in this process or another."""
        ...
