"""The dialogue of a chat: opening it, asking in it, and reading the reply that an earlier process left in it."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from attrs import evolve

from nairi_async.bots.capabilities import CanComplete, RecallsReplies
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from nairi_async.bots.store import Record
    from nairi_async.dialogue import Answer, Dialogue, Dialogues
    from nairi_async.typing import Source

# Seconds spent on finding out how a turn ended that an earlier process did not see end.
_SETTLE_TIMEOUT: Final = 60.0


def open_dialogue(session: Dialogues, target: str, record: Record) -> Dialogue:
    """Return the chat's dialogue, or a new one if it has none."""
    if record.dialogue_id is not None:
        return session.resume(record.dialogue_id)
    return session.conversation(target)


def continued_id(dialogue: Dialogue) -> str | None:
    """Return the dialogue's id; `None` if it has not begun, or if nothing more can be said in it."""
    return None if isinstance(dialogue, CanComplete) and dialogue.is_completed else dialogue.id


async def unsent_reply(dialogue: Dialogue, record: Record, options: Mapping[str, Any]) -> Answer | None:
    """Wait until no turn runs, and return the reply that was not handed over.

    Returns:
        The reply; `None` if there is none, or if the service cannot be asked for it.
    """
    if record.is_open and record.dialogue_id is not None and isinstance(dialogue, RecallsReplies):
        return await dialogue.last_reply(after=record.last_message_id, **options)
    return None


async def settled(
    session: Dialogues, target: str, record: Record, dialogue: Dialogue, options: Mapping[str, Any]
) -> tuple[Record, Dialogue]:
    """Find out whether a dialogue is over after a turn whose end was not seen; if it is, begin another."""
    if record.is_open and record.dialogue_id is not None and isinstance(dialogue, CanComplete):
        await dialogue.settle(timeout=min(_SETTLE_TIMEOUT, options["timeout"] or math.inf))
        if dialogue.is_completed:
            record = evolve(record, dialogue_id=None)
            dialogue = open_dialogue(session, target, record)
    return record, dialogue


def prepared_call(
    dialogue: Dialogue, prompt: str, files: tuple[Source, ...], options: Mapping[str, Any]
) -> Callable[[], Awaitable[Answer]]:
    """Return the call that asks the prompt.

    Raises:
        InvalidArgumentError: there are files, and the service takes none.
    """
    if not files:
        return partial(dialogue.ask, prompt, **options)
    if "attachments" not in inspect.signature(dialogue.ask).parameters:
        raise InvalidArgumentError("this service takes no attachments; send the prompt without files")
    return partial(cast("Any", dialogue).ask, prompt, attachments=files, **options)
