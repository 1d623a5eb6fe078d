"""`Prompt`: a prompt with its attachments, for calls that send many."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field

from nairi_async._core import checks
from nairi_async._core.records import frozen
from nairi_async._nairi import arguments
from nairi_async.errors import InvalidArgumentError
from nairi_async.models import Turn
from nairi_async.typing import Source


def _files(value: Iterable[Source]) -> tuple[Source, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InvalidArgumentError("attachments must be an iterable of files, not a single one")
    return tuple(value)


@frozen
class Prompt:
    """A prompt of `ask_many` or of a batch with more than its text."""

    text: str
    """What to say; not blank."""
    key: str | None = field(default=None, kw_only=True)
    """Your own name for the prompt, which is not sent: its outcome has it as well. In a session with a `journal` it is
    a durable key, as for `NairiSession.start`; in a batch it is the id of the record."""
    attachments: tuple[Source, ...] = field(default=(), kw_only=True, converter=_files)
    """Files to upload first, at most ten, as for `NairiSession.upload`; in a batch, paths only."""
    job_id: Turn | str | None = field(default=None, kw_only=True)
    """The conversation to continue: its job id, or one of its turns. Without one, a new conversation is started."""

    @classmethod
    def of(cls, given: object) -> Prompt:
        """Return a checked prompt, from a prompt or a text.

        Raises:
            InvalidArgumentError: it cannot be sent.
        """
        prompt = given if isinstance(given, Prompt) else cls(checks.prompt(given))
        checks.prompt(prompt.text)
        if prompt.key is not None and not isinstance(prompt.key, str):
            raise InvalidArgumentError(f"key must be a string, not {type(prompt.key).__name__}")
        if prompt.job_id is not None:
            arguments.job_id(prompt.job_id)
        return prompt
