"""How a prompt is recognised at the service: by its conversation, its text and its files. Pure functions."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from nairi_async._core.records import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable


def content_digest(text: str, attachment_ids: Iterable[str]) -> bytes:
    """Return a digest that messages with the same text and files share.

    Surrounding white space, the kind of line ends and the order of the files make no difference.
    """
    parts = (text.replace("\r\n", "\n").strip(), *sorted(set(attachment_ids)))
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


@frozen
class PromptFingerprint:
    """What identifies a prompt. Prompts with the same fingerprint cannot be distinguished at the service."""

    job_id: str | None
    """The conversation that the prompt continues; `None` for one that starts a conversation, with any agent."""
    content: bytes
    """The digest of its text and files."""

    @classmethod
    def of(cls, job_id: str | None, prompt: str, attachment_ids: Iterable[str]) -> PromptFingerprint:
        """Return the fingerprint of a prompt."""
        return cls(job_id, content_digest(prompt, attachment_ids))
