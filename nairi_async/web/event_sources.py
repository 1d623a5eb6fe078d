"""What an event stream sends: the events of a watch, or of one prompt and its reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nairi_async._core.records import frozen
from nairi_async._nairi.activity import Activity
from nairi_async.errors import NairiError
from nairi_async.web import event_format

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nairi_async._nairi.polling.watch import Watch
    from nairi_async.dialogue import Dialogue
    from nairi_async.typing import Duration


@frozen
class End:
    """The end of a stream that has sent everything."""

    status: str | None
    is_empty: bool = False
    """Whether a watch from a cursor on had nothing to send."""


Item = bytes | Activity | NairiError | End


async def watch_events(watch: Watch) -> AsyncGenerator[Item]:
    """Yield the messages of a watch, what the agent is doing, and how the watch ended."""
    activity, cursor = Activity(), watch.cursor
    try:
        async for message in watch:
            activity.feed(message)
            yield activity if message.progress is not None else event_format.message_event(message)
    except NairiError as error:
        yield error
    else:
        yield End(watch.status, is_empty=cursor is not None and watch.cursor == cursor)


async def reply_events(dialogue: Dialogue, prompt: str, timeout: Duration | None) -> AsyncGenerator[Item]:
    """Ask a prompt, and yield its reply or why there is none."""
    try:
        answer = await dialogue.ask(prompt, timeout=timeout)
    except NairiError as error:
        yield error
    else:
        yield event_format.answer_event(dialogue.id, answer.text)
        yield End("completed")
