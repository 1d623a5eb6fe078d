"""By what a prompt is recognised at the service: its conversation, its text and its files. Pure functions."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable


def content_digest(text: str, attachment_ids: Iterable[str]) -> bytes:
    """Return what two messages of equal text and files share.

    White space around the text and the form of line ends do not count, and neither does the order of the files.
    """
    parts = (text.replace("\r\n", "\n").strip(), *sorted(set(attachment_ids)))
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


@frozen
class PromptFingerprint:
    """What identifies a prompt. Prompts with equal fingerprints cannot be distinguished at the service."""

    job_id: str | None
    """The conversation that the prompt continues; `None` for one that starts a conversation, with any agent."""
    content: bytes
    """The digest of its text and files."""

    @classmethod
    def of(cls, job_id: str | None, prompt: str, attachment_ids: Iterable[str]) -> PromptFingerprint:
        """Return the fingerprint of a prompt."""
        return cls(job_id, content_digest(prompt, attachment_ids))
