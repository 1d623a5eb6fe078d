"""The protocol of a conversation that both services share: code written against it works with either of them.

A chat on standard input, in one conversation, that shows what the agent does while it works:

```python
import asyncio
import sys

from nairi_async import Activity, NairiError, NairiSession


async def main() -> None:
    async with NairiSession() as nairi:
        conversation = nairi.conversation("my-agent")
        while prompt := await asyncio.to_thread(sys.stdin.readline):
            activity = Activity()
            try:
                async for message in conversation.send(prompt, progress=True):
                    activity.feed(message)
                    print(activity.describe() if message.progress else message.content)
            except NairiError as error:
                print(error)
        print("resume it with", conversation.job_id)


asyncio.run(main())
```

`conversation.ask(prompt)` instead of `send` is all that a dialogue of the other service needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nairi_async.typing import Duration

__all__ = ["Answer", "Dialogue", "Dialogues"]


class Answer(Protocol):
    """What an agent replied in one turn."""

    @property
    def text(self) -> str:
        """The whole text; empty if the agent said nothing."""
        ...


class Dialogue(Protocol):
    """One conversation, whose turns run one at a time, in the order in which they were asked."""

    @property
    def id(self) -> str | None:
        """The service's id of the conversation, for `resume`; `None` until the service has named it."""
        ...

    @property
    def may_be_running(self) -> bool:
        """Whether a turn that was asked through this object may be running at the service.

        It is `True` from the moment a prompt may have been sent until the end of its turn was seen. After an `ask`
        that was cancelled or failed, `False` means that its prompt does not run and may be asked again.
        """
        ...

    async def wait_for_id(self) -> str:
        """Wait until the service has named the conversation, and return its `id`.

        The id is known as soon as the first prompt was accepted, long before its reply: save it then, and the
        conversation can be resumed if the process ends. Closing the session ends the wait with `SessionClosedError`.
        """
        ...

    async def ask(self, prompt: str, *, timeout: Duration | None = ...) -> Answer:
        """Send a prompt after the turns before it, and wait for the whole reply.

        Args:
            prompt: What to say; not blank.
            timeout: Seconds for the whole wait, turns before this one included; `None` for no limit.
        """
        ...


class Dialogues(Protocol):
    """A session that holds dialogues."""

    def conversation(self, target: str, /) -> Dialogue:
        """Return a new dialogue with an agent or service; its first prompt begins the conversation."""
        ...

    def resume(self, id: str, /) -> Dialogue:  # noqa: A002 - the word that `Dialogue` uses
        """Return the dialogue of a conversation that began earlier, in this process or another."""
        ...
