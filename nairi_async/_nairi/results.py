"""What calls return that can do more than be read: replies, outcomes of many prompts, attachments."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from anyio import to_thread
from attrs import field, frozen

from nairi_async._core.files import safe_name, write_new
from nairi_async.errors import AttachmentExistsError, InvalidArgumentError, NairiError
from nairi_async.models import Message, Turn, Usage

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path
    from typing import Self


class _Reachable:
    """What a reply needs to fetch its files.

    A slot and no attrs field: it is no part of the value, so that equality, hash, repr, `asdict`, pickle and copy do
    not know it, and a reply that came from a pickle has none.
    """

    __slots__ = ("_fetch",)
    _fetch: Callable[[Sequence[str]], Awaitable[list[Attachment]]]

    def reached_by(self, fetch: Callable[[Sequence[str]], Awaitable[list[Attachment]]]) -> Self:
        """The same reply, able to fetch its files."""
        object.__setattr__(self, "_fetch", fetch)
        return self


@frozen(kw_only=True)
class Reply(_Reachable):
    """What came of one turn."""

    turn: Turn
    """The turn that it answers."""
    text: str
    """All assistant text of the turn, blocks parted by a blank line; empty if the agent said nothing."""
    messages: tuple[Message, ...]
    """The turn's non-progress messages after the user message, oldest first, notices included."""
    usage: Usage | None = None
    """The sum over the turn's messages; `None` if the agent reported nothing."""
    attachment_ids: tuple[str, ...] = ()
    """Files that the agent made, each once, in order."""

    @classmethod
    def of(cls, turn: Turn, messages: Iterable[Message]) -> Reply:
        """Fold the messages that followed a turn's user message."""
        kept = tuple(messages)
        spoken = [message.content for message in kept if message.role == "assistant" and message.content.strip()]
        files = dict.fromkeys(file for message in kept if message.role != "user" for file in message.attachment_ids)
        return cls(
            turn=turn,
            text="\n\n".join(spoken),
            messages=kept,
            usage=Usage.total(message.usage for message in kept),
            attachment_ids=tuple(files),
        )

    async def attachments(self) -> list[Attachment]:
        """All files of the reply, in the order of `attachment_ids`, over the session that made it.

        Raises:
            InvalidArgumentError: the reply came from a pickle or was made by hand; use `nairi.attachments(reply)`.
            NairiError: as for `NairiSession.download`; the first failure, after which nothing more is fetched.
        """
        try:
            fetch = self._fetch
        except AttributeError as error:
            advice = "this reply has no session any more; use `await nairi.attachments(reply)`"
            raise InvalidArgumentError(advice) from error
        return await fetch(self.attachment_ids)


@frozen(kw_only=True)
class Outcome:
    """How one prompt of many ended: with a reply or with an error, never with an exception raised."""

    index: int
    """Position of the prompt in the input, from 0."""
    prompt: str
    """The prompt."""
    turn: Turn | None = None
    """The turn, if one was started."""
    reply: Reply | None = None
    """The reply, unless it failed."""
    error: NairiError | None = None
    """Why there is no reply."""


@frozen(kw_only=True)
class Attachment:
    """A file stored by the service."""

    id: str
    """Identity of the file."""
    filename: str
    """The name as uploaded; the service does not clean it, so it is not safe as a path."""
    data: bytes = field(repr=False)
    """The bytes."""

    async def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the file into a directory, which is made if it is missing; returns where it is.

        It keeps its name as far as a name can be kept that comes from elsewhere: directories and drives are taken off,
        characters that mean something to a system become `_`, an empty name becomes the id. Other programs see the
        whole file or none, and a link of that name is replaced, not followed.

        Args:
            directory: Where to write.
            overwrite: Replace a file of that name.

        Raises:
            AttachmentExistsError: there is something of that name, and `overwrite` is off.
            OSError: the disk or the system refuses.
        """
        name = safe_name(self.filename, self.id)
        write = partial(write_new, directory, name, self.data, overwrite=overwrite)
        try:
            return await to_thread.run_sync(write)
        except FileExistsError as error:
            raise AttachmentExistsError(f"{name!r} exists already; overwrite=True replaces it") from error
