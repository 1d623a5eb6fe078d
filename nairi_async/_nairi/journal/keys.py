"""The durable keys of a session, as it sees them: what sends prompts under them is imported with the first."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from pathlib import Path

    from nairi_async._nairi.attachments import PendingUploads
    from nairi_async._nairi.delivery.prompt_sender import PromptSender
    from nairi_async._nairi.journal.keyed_prompts import KeyedPrompt, KeyedPrompts

_LONGEST_KEY: Final = 1024
# Characters that `derived_key` adds, at most.
_LONGEST_PURPOSE: Final = 40


class Keys:
    """The durable keys of one session.

    Args:
        sender: Sends the prompts.
        path: The journal; without one no key can be used.
        base_url: The service that the journal belongs to.
    """

    def __init__(self, sender: PromptSender, path: Path | None, base_url: str) -> None:
        self._sender, self._path, self._base_url = sender, path, base_url

    async def open(self) -> None:
        """Open the journal, if there is one.

        Raises:
            JournalError: it cannot be used, or is in use.
        """
        if self._path is not None:
            await self._prompts.open()

    async def aclose(self) -> None:
        """Finish what is being written, and close the journal. Harmless when repeated."""
        if self._path is not None:
            await self._prompts.aclose()

    def checked(self, key: object) -> str | None:
        """Return a valid key, or `None` for none.

        Raises:
            InvalidArgumentError: it is not valid, or the session has no journal.
        """
        if key is None:
            return None
        if not isinstance(key, str) or not key.strip() or len(key) > _LONGEST_KEY:
            raise InvalidArgumentError(
                f"a key must be a string of 1 to {_LONGEST_KEY} characters, not blank: {key!r:.80}"
            )
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgumentError("the key holds half a character, which cannot be stored") from error
        if self._path is None:
            raise InvalidArgumentError("a key needs a journal to be kept in: NairiSession(journal='run.sqlite')")
        return key

    @property
    def has_journal(self) -> bool:
        """Whether keys can be used."""
        return self._path is not None

    def prompt(self, key: str, text: str, uploads: PendingUploads, **target: Any) -> KeyedPrompt:
        """Return a prompt under a checked key, not yet sent; `target` as the fields of `KeyedPrompt`."""
        from nairi_async._nairi.journal.keyed_prompts import KeyedPrompt  # noqa: PLC0415 - as below

        job_id = target.get("job_id")
        if job_id is not None:
            # The latest turn that this session began there is at least as late as what the caller knows.
            target["previous"] = self._sender.context.latest_prompt(job_id) or target.get("previous")
        return KeyedPrompt(prompts=self._prompts, key=key, text=text, uploads=uploads, **target)

    @cached_property
    def _prompts(self) -> KeyedPrompts:
        from nairi_async._nairi.journal.keyed_prompts import KeyedPrompts  # noqa: PLC0415 - with it comes SQLite

        assert self._path is not None  # noqa: S101 - without a journal there are no keys
        return KeyedPrompts(self._sender, self._path, self._base_url)


def derived_key(key: str | None, purpose: Any) -> str | None:
    """Return the key of a further prompt that a call sends by itself, such as a repair."""
    if key is not None and len(key) > _LONGEST_KEY - _LONGEST_PURPOSE:
        # Two long keys may differ at their ends only.
        digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        key = f"{key[: _LONGEST_KEY - _LONGEST_PURPOSE - len(digest)]}{digest}"
    return None if key is None else f"{key}/{purpose}"
