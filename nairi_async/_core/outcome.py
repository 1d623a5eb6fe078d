"""The base of the outcomes of many prompts, which those of all services share."""

from __future__ import annotations

from typing import Generic, TypeVar

from nairi_async._core.records import frozen
from nairi_async.errors import InvalidArgumentError, NairiError

ReplyT_co = TypeVar("ReplyT_co", covariant=True)


@frozen(kw_only=True)
class PromptOutcome(Generic[ReplyT_co]):
    """How one prompt of many ended: with a reply or with an error. The base of every service's outcomes."""

    prompt: str
    """The prompt."""
    reply: ReplyT_co | None = None
    """The reply, unless the prompt failed."""
    error: NairiError | None = None
    """Why there is no reply."""

    def result(self) -> ReplyT_co:
        """Return the reply.

        Raises:
            NairiError: the prompt failed: its `error`.
        """
        if self.error is not None:
            raise self.error
        if self.reply is None:
            raise InvalidArgumentError("this outcome has neither a reply nor an error")
        return self.reply
