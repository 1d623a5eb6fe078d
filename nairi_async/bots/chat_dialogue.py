"""The dialogue of a chat: opening it, and asking in it."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from nairi_async.bots.capabilities import CanComplete
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from nairi_async.bots.store import Record
    from nairi_async.dialogue import Answer, Dialogue, Dialogues
    from nairi_async.typing import Source


def open_dialogue(session: Dialogues, target: str, record: Record) -> Dialogue:
    """Return the chat's dialogue, or a new one if it has none."""
    if record.dialogue_id is not None:
        return session.resume(record.dialogue_id)
    return session.conversation(target)


def continued_id(dialogue: Dialogue) -> str | None:
    """Return the dialogue's id; `None` if it has not begun, or if nothing more can be said in it."""
    return None if isinstance(dialogue, CanComplete) and dialogue.is_completed else dialogue.id


def takes(dialogue: Dialogue, option: str) -> bool:
    """Return whether the dialogue's `ask` has an option of that name."""
    return option in inspect.signature(dialogue.ask).parameters


def prepared_call(
    dialogue: Dialogue,
    prompt: str,
    files: Sequence[Source],
    attachment_ids: Sequence[str],
    options: Mapping[str, Any],
) -> Callable[[], Awaitable[Answer]]:
    """Return the call that asks the prompt, with files or with the ids of uploaded ones.

    Raises:
        InvalidArgumentError: there are files, and the service takes none.
    """
    call: Any = partial(dialogue.ask, prompt, **options)
    if files and not takes(dialogue, "attachments"):
        raise InvalidArgumentError("this service takes no attachments; send the prompt without files")
    if files:
        call = partial(call, attachments=files)
    if attachment_ids:
        call = partial(call, attachment_ids=attachment_ids)
    return cast("Callable[[], Awaitable[Answer]]", call)
