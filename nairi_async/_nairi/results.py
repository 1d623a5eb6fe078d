"""The reply to one turn."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Generic, cast

from attrs import field

from nairi_async._core.records import frozen
from nairi_async.errors import InvalidArgumentError, ReplyFormatError
from nairi_async.models import Message, Turn, Usage, from_plain, to_plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from typing import Any, Self

    from typing_extensions import TypeVar

    from nairi_async._nairi.attachment import Attachment

    # Only type checkers need the default, which lets `Reply` mean `Reply[None]`; typing has it from Python 3.13 on.
    ValueT_co = TypeVar("ValueT_co", covariant=True, default=None)
else:
    ValueT_co = typing.TypeVar("ValueT_co", covariant=True)

_T = typing.TypeVar("_T")


class _Reachable:
    """The part of a reply that fetches its files.

    The function is kept in a slot that is no attrs field, so it is no part of the value: equality, hash, repr,
    `asdict`, pickle and copy leave it out.
    """

    __slots__ = ("_fetch",)
    if TYPE_CHECKING:
        _fetch: Callable[[Sequence[str]], Awaitable[list[Attachment]]]

    def reached_by(self, fetch: Callable[[Sequence[str]], Awaitable[list[Attachment]]]) -> Self:
        """Return the same reply, able to fetch its files."""
        object.__setattr__(self, "_fetch", fetch)
        return self


@frozen(kw_only=True)
class Reply(_Reachable, Generic[ValueT_co]):
    """The agent's reply to one turn. `str(reply)` is its text.

    `Reply[T]` has a `value` of the type `T`: `ask(…, into=T)` returns it.
    """

    turn: Turn
    """The turn."""
    text: str
    """All assistant text of the turn, its messages separated by a blank line; empty if the agent said nothing."""
    messages: tuple[Message, ...]
    """The turn's messages after the user message, oldest first: notices included, progress left out."""
    usage: Usage | None = None
    """The sum over the turn's messages; `None` if the agent reported nothing."""
    attachment_ids: tuple[str, ...] = ()
    """Ids of the files that the agent made, each once, in order."""
    value: ValueT_co = field(default=None, init=False, eq=False)
    """What `ask(…, into=T)` made of the text; otherwise `None`. It is no part of the reply's identity."""

    def __str__(self) -> str:
        return self.text

    @staticmethod
    def of(turn: Turn, messages: Iterable[Message]) -> Reply:
        """Combine the messages that followed a turn's user message."""
        messages = tuple(messages)
        texts = [message.content for message in messages if message.role == "assistant" and message.content.strip()]
        files = dict.fromkeys(file for message in messages if message.role != "user" for file in message.attachment_ids)
        return Reply(
            turn=turn,
            text="\n\n".join(texts),
            messages=messages,
            usage=Usage.total(message.usage for message in messages),
            attachment_ids=tuple(files),
        )

    def json(self) -> Any:
        """Return the one JSON value of the text.

        It is the whole text, the content of one fenced block, or one object or array within the text; an array within
        the text must begin a line. The service does not guarantee any format: ask for it in the prompt.

        Raises:
            ReplyFormatError: the text has no JSON value, or several.
        """
        from nairi_async._nairi import json_in_text  # noqa: PLC0415 - only replies that are read as JSON need it

        try:
            return json_in_text.find_json(self.text)
        except json_in_text.NoSuchValueError as error:
            raise self._format_error(error) from error

    def into(self, kind: type[_T]) -> _T:
        """Return the one JSON value of the text as an instance of a type.

        Numbers, texts and flags are not converted into each other. Unknown keys are ignored.

        Args:
            kind: An attrs class, a dataclass, a `TypedDict`, or a collection such as `list[Invoice]`. Fields may also
                be a `Decimal`, an `Enum`, a `Literal`, a date or time in ISO 8601, a `UUID`, or a union: the first
                member that fits is taken, and of several classes the one that reads most of the keys.

        Raises:
            InvalidArgumentError: the type is not supported.
            ReplyFormatError: the text has no JSON value, several, or one that does not fit.
        """
        from nairi_async._nairi import json_in_text, structured  # noqa: PLC0415 - as above

        structured.check_type(kind)
        try:
            return structured.structure(json_in_text.find_json(self.text, exact=True), kind)
        except json_in_text.NoSuchValueError as error:
            raise self._format_error(error) from error

    def with_value(self, value: _T) -> Reply[_T]:
        """Return the same reply with a value."""
        object.__setattr__(self, "value", value)
        return cast("Reply[_T]", self)

    def _format_error(self, error: ValueError) -> ReplyFormatError:
        failure = ReplyFormatError(f"the reply cannot be used: {error}", self)
        failure.turn = self.turn
        return failure

    def to_dict(self) -> dict[str, Any]:
        """Return the reply as a dictionary that JSON can hold: times as ISO 8601, costs as strings; no `value`."""
        return {name: entry for name, entry in to_plain(self).items() if name != "value"}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Reply:
        """Return the reply that `to_dict` made a dictionary of; unknown keys are ignored.

        Raises:
            ValueError: a key is missing, or a value has another type.
        """
        return from_plain(Reply[None], data)

    async def attachments(self) -> list[Attachment]:
        """Download all files of the reply, in the order of `attachment_ids`, through the session that made it.

        Raises:
            InvalidArgumentError: the reply has no session, since it was unpickled, copied or constructed; use
                `await nairi.attachments(reply)`.
            NairiError: as for `NairiSession.download`; the first failure ends the call.
        """
        try:
            fetch = self._fetch
        except AttributeError as error:
            text = "this reply has no session: use `await nairi.attachments(reply)`"
            raise InvalidArgumentError(text) from error
        return await fetch(self.attachment_ids)
