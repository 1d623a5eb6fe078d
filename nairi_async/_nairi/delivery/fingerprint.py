"""What a prompt looks like at the service, and when two texts count as the same: pure functions."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Collection

# A text of at least this many characters may be the beginning of another text that the service cut off.
_MIN_TRUNCATED: Final = 500
# Characters of a text that are compared by `skeleton`: enough to distinguish texts, and a hostile one may be very long.
_MAX_COMPARED: Final = 20_000


def canonical(text: str) -> str:
    """Return a text as it is compared: without white space around it, and with uniform line ends."""
    return text.replace("\r\n", "\n").strip()


def skeleton(text: str) -> str:
    """Return a text without what a service might change in it: Unicode forms, white space, control characters."""
    folded = unicodedata.normalize("NFKC", text[:_MAX_COMPARED])
    return "".join(letter for letter in folded if letter.isprintable() and letter != " ")


def is_like(shown: str, sent: str) -> bool:
    """Return whether the skeleton `shown` may be the skeleton `sent`, changed or cut off by the service."""
    return shown == sent or (len(shown) >= _MIN_TRUNCATED and sent.startswith(shown))


@frozen
class PromptFingerprint:
    """By what a prompt is recognised at the service. Prompts with equal fingerprints cannot be distinguished there."""

    job_id: str | None
    """The conversation that the prompt continues; `None` for one that starts a conversation, with any agent."""
    prompt: str
    """The text, in canonical form."""
    attachment_ids: frozenset[str] = frozenset()
    """The files sent with it."""

    @classmethod
    def of(cls, job_id: str | None, prompt: str, attachment_ids: Collection[str]) -> PromptFingerprint:
        """Return the fingerprint of a prompt as the caller gave it."""
        return cls(job_id, canonical(prompt), frozenset(attachment_ids))

    @property
    def content(self) -> tuple[str, frozenset[str]]:
        """What is compared with a message of the service."""
        return self.prompt, self.attachment_ids
