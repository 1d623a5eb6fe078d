"""What the messages of an ended turn amount to: its reply, or the error of its failure. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nairi_async._core.json_body import one_line, shortened
from nairi_async._nairi.polling.list_order import NOTHING_KNOWN, KnownPrompts
from nairi_async._nairi.polling.timeline import Timeline
from nairi_async.errors import InvalidArgumentError, TurnFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async.models import Message, Turn

# Characters of the explanation that the error quotes; its `messages` hold all of it.
_MAX_EXPLANATION: Final = 1000


def check_conversation(message: Message, job_id: str) -> None:
    """Check that a message belongs to the conversation that is watched.

    Raises:
        InvalidArgumentError: it belongs to another one: a turn or a cursor was given with the wrong conversation.
    """
    if message.job_id not in {job_id, ""}:
        where = f"belongs to conversation {message.job_id}, not to {job_id}"
        raise InvalidArgumentError(f"message {message.id} {where}: give a turn or cursor of the conversation you watch")


def turn_failed(turn: Turn | None, messages: Sequence[Message]) -> TurnFailedError:
    """Return the error of a failed turn: the service explains the failure in the last system message.

    See https://nairi.ai/docs/api/conversations/message-reference.
    """
    explanations = [message.content for message in messages if message.role == "system" and message.content.strip()]
    text = explanations[-1] if explanations else "the turn failed, and the service does not say why"
    return TurnFailedError(one_line(shortened(text, _MAX_EXPLANATION)), turn, tuple(messages))


def turn_messages(
    turn: Turn,
    prompt: Message,
    listed: Sequence[Message],
    known: Sequence[Message] = (),
    *,
    prompts: KnownPrompts = NOTHING_KNOWN,
) -> tuple[list[Message], bool]:
    """Pick the messages of an ended turn from a read of its conversation.

    Args:
        turn: The turn.
        prompt: Its user message, with the status of its end.
        listed: The read.
        known: Messages of the turn that earlier reads showed.
        prompts: What is known of the user messages of the conversation.

    Returns:
        The messages that follow the prompt, and whether what a caller waits for is among them: a reply, or the reason
        why there is none.
    """
    # A list that shows the turn still running is older than its end, and so may lack some of the reply.
    is_listed = any(message.id == turn.message_id and message.is_terminal for message in listed)
    timeline = Timeline(turn=turn.message_id, prompts=prompts)
    timeline.observe_message(prompt)
    found = [*timeline.observe(listed), *timeline.observe(known, is_ordered=True), *timeline.finish()]
    messages = timeline.in_order(found)
    expected = "system" if prompt.status == "failed" else "assistant"
    has_text = any(message.is_terminal and message.content.strip() for message in messages if message.role == expected)
    return messages, is_listed and has_text
