"""What a journal holds under a key."""

from __future__ import annotations

from nairi_async._core.records import frozen
from nairi_async._nairi.delivery.fingerprint import PromptFingerprint
from nairi_async.models import Turn


@frozen(kw_only=True)
class Entry:
    """What a journal holds under a key."""

    key: str
    request: str
    """What was asked for, as `KeyedPrompt` encodes it: another prompt under the same key is recognised by it."""
    agent_id: str | None
    """The agent, where it is known."""
    fingerprint: PromptFingerprint
    """What the prompt is recognised by at the service."""
    sent_at: float
    """A time before the prompt left, in Unix time: by the service's clock or the machine's, whichever was behind."""
    attachment_ids: tuple[str, ...] = ()
    """Ids of the files that it was sent with."""
    previous: str | None = None
    """A user message that the conversation had before it, where one was known."""
    turn: Turn | None = None
    """The turn that it became; `None` while that is not known."""
