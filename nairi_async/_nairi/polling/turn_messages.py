"""What the messages of an ended turn amount to: its reply, or the error of its failure. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nairi_async._core.json_body import one_line, shortened
from nairi_async._core.records import frozen
from nairi_async._nairi.polling.list_order import NOTHING_KNOWN, KnownPrompts
from nairi_async._nairi.polling.timeline import Timeline
from nairi_async.errors import InvalidArgumentError, TurnFailedError
from nairi_async.models import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async.models import Turn

LONGEST_LAG: Final = 30.0
"""Seconds after the end of a turn for which reads of its conversation that are older than the end are repeated."""
FIRST_PATIENCE: Final = 2.0
"""Seconds between the first two reads for messages that are missing after the settling time; then they double."""
# Characters of the explanation that the error quotes; its `messages` hold all of it.
_MAX_EXPLANATION: Final = 1000


@frozen
class TurnMessages:
    """The messages of an ended turn, as far as reads of its conversation have shown them."""

    messages: list[Message]
    """What follows the prompt, in order."""
    has_outcome: bool
    """Whether what a caller waits for is among them: a reply with text, or the reason of a failure."""
    is_current: bool
    """Whether the last read shows the end of the turn; otherwise it is older, and may lack some of the messages."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is to be expected."""
        return self.has_outcome and self.is_current


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
) -> TurnMessages:
    """Pick the messages of an ended turn from a read of its conversation.

    Args:
        turn: The turn.
        prompt: Its user message, with the status of its end.
        listed: The read.
        known: Messages of the turn that earlier reads showed.
        prompts: What is known of the user messages of the conversation.
    """
    # A list that shows the turn still running is older than its end.
    is_current = any(message.id == turn.message_id and message.is_terminal for message in listed)
    timeline = Timeline(turn=turn.message_id, prompts=prompts)
    timeline.observe_message(prompt)
    found = [*timeline.observe(listed), *timeline.observe(known, is_ordered=True), *timeline.finish()]
    messages = timeline.in_order(found)
    expected = "system" if prompt.status == "failed" else "assistant"
    has_text = any(message.is_terminal and message.content.strip() for message in messages if message.role == expected)
    return TurnMessages(messages, has_text, is_current)
