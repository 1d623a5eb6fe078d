"""What an event stream sends: the events of a watch, or of one prompt and its reply."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nairi_async._nairi.activity import Activity
from nairi_async.errors import NairiError
from nairi_async.web import event_format

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nairi_async._nairi.polling.watch import Watch
    from nairi_async.dialogue import Dialogue
    from nairi_async.typing import Duration


async def watch_events(watch: Watch) -> AsyncGenerator[bytes | Activity]:
    """Yield the messages of a watch, what the agent is doing, and how the watch ended."""
    activity = Activity()
    try:
        async for message in watch:
            activity.feed(message)
            yield activity if message.progress is not None else event_format.message_event(message)
    except NairiError as error:
        yield event_format.failure_event(error)
    else:
        yield event_format.event("end", json.dumps({"status": watch.status}))


async def reply_events(dialogue: Dialogue, prompt: str, timeout: Duration | None) -> AsyncGenerator[bytes | Activity]:
    """Ask a prompt, and yield its reply or why there is none."""
    try:
        answer = await dialogue.ask(prompt, timeout=timeout)
    except NairiError as error:
        yield event_format.failure_event(error)
    else:
        yield event_format.event("answer", json.dumps({"id": dialogue.id, "text": answer.text}))
        yield event_format.event("end", json.dumps({"status": "completed"}))
