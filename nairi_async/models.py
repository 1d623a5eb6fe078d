"""The service's objects as frozen values: turns, messages, usage, agents, rows of the list of conversations.

Fields have the service's own names (https://nairi.ai/docs/api/conversations/message-reference). Unknown fields of a
response are ignored, an unknown status or role is kept as a string, and an absent optional field is `None`. Times are
aware.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Context, Decimal, InvalidOperation
from functools import cache, reduce
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_origin

from attrs import AttrsInstance, field, fields, resolve_types
from attrs import has as attrs_has

from nairi_async._core.records import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

    import cattrs

TERMINAL_STATUSES: Final = frozenset({"completed", "failed"})
"""The message statuses after which a message does not change any more."""

# Costs that are read have at most 31 digits before the point and 100 behind it: sums of them are exact.
_SUMS: Final = Context(prec=200, traps=[])
_ModelT = TypeVar("_ModelT", bound=AttrsInstance)


@frozen
class Turn:
    """One user message and the work of the agent on it."""

    job_id: str
    """The conversation; the service calls it a job."""
    message_id: str
    """The user message that began the turn; its status is the turn's."""
    agent_id: str | None = field(default=None, eq=False, kw_only=True)
    """The agent, if the call that made this object knew it; not part of the turn's identity."""

    def to_dict(self) -> dict[str, Any]:
        """Return the turn as a dictionary that JSON can hold."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Turn:
        """Return the turn that `to_dict` made a dictionary of; unknown keys are ignored.

        Raises:
            ValueError: a key is missing, or a value has another type.
        """
        return from_plain(cls, data)


@frozen(kw_only=True)
class Usage:
    """What a turn cost, as far as the agent reports it."""

    cost_usd: Decimal | None = None
    """US dollars, exactly as the service printed them."""
    input_tokens: int | None = None
    """Tokens read."""
    output_tokens: int | None = None
    """Tokens written."""
    cache_read_tokens: int | None = None
    """Tokens read from the prompt cache."""
    cache_write_tokens: int | None = None
    """Tokens written to the prompt cache."""
    model: str | None = None
    """Model identifier, such as `claude-opus-4-7`; `None` in a sum over different models."""

    @classmethod
    def total(cls, usages: Iterable[Usage | None]) -> Usage | None:
        """Return the exact sum; a figure that is in none of them is `None`, and so is the sum over nothing."""
        reported = [usage for usage in usages if usage is not None]
        if not reported:
            return None
        models = {usage.model for usage in reported}
        return cls(
            cost_usd=_cost(usage.cost_usd for usage in reported),
            input_tokens=_tokens(usage.input_tokens for usage in reported),
            output_tokens=_tokens(usage.output_tokens for usage in reported),
            cache_read_tokens=_tokens(usage.cache_read_tokens for usage in reported),
            cache_write_tokens=_tokens(usage.cache_write_tokens for usage in reported),
            model=models.pop() if len(models) == 1 else None,
        )


def _tokens(figures: Iterable[int | None]) -> int | None:
    reported = [figure for figure in figures if figure is not None]
    return sum(reported) if reported else None


def _cost(figures: Iterable[Decimal | None]) -> Decimal | None:
    reported = [figure for figure in figures if figure is not None]
    return reduce(_SUMS.add, reported) if reported else None


@frozen(kw_only=True)
class Progress:
    """What the agent is doing: the envelope in the content of a progress message.

    The service documents `progress_type` and `text_delta`. The other fields are those that the service's own daemon
    sends, and any of them may be missing. The set of types is open.
    """

    progress_type: str
    """`text`, `tool_use`, `tool_heartbeat`, `step`, `subagent`, `thinking`, or another word."""
    text_delta: str | None = None
    """A whole block of text, not a token; the final reply repeats it."""
    summary: str | None = None
    """One line of text for people."""
    tool_name: str | None = None
    """Name of the tool."""
    tool_input: str | None = None
    """Short form of the tool's input: a path, a command, a pattern."""
    tool_output: str | None = None
    """The tool's result as text."""
    tool_description: str | None = None
    """The agent's own description of the tool call."""
    tool_status: str | None = None
    """`running`, `completed`, `error`, or another word."""
    tool_use_id: str | None = None
    """Id of the tool call, the same at its start and at its end."""
    parent_tool_use_id: str | None = None
    """Id of the tool call that started the subagent which sent this event."""
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)
    """The envelope as received, unknown keys included; empty if the content was not a JSON object."""


@frozen(kw_only=True)
class Message:
    """One entry of a conversation.

    A message in which the service left a field out, or sent something unexpected, is delivered with what could be read:
    a text that is missing is empty, and a time is `None`.
    """

    id: str
    """Id of the message."""
    job_id: str
    """The conversation that it belongs to."""
    role: str
    """`user`, `assistant`, `system`, `progress`, or another word."""
    status: str
    """`queued`, `pending`, `completed`, `failed`, or another word, which is never terminal."""
    content: str
    """The text; of a `progress` message the JSON envelope, which the field `progress` holds parsed."""
    created_at: datetime | None = None
    """When it was created, by the service's clock."""
    updated_at: datetime | None = None
    """When it last changed, by the service's clock."""
    attachment_ids: tuple[str, ...] = ()
    """Ids of the files sent with a prompt, or made by the agent."""
    usage: Usage | None = None
    """Cost and tokens of the turn, on the `assistant` messages of agents that report them."""
    progress: Progress | None = None
    """The parsed envelope of a `progress` message."""

    @property
    def is_terminal(self) -> bool:
        """Whether the message does not change any more; of a user message: whether its turn has ended."""
        return self.status in TERMINAL_STATUSES

    def to_dict(self) -> dict[str, Any]:
        """Return the message as a dictionary that JSON can hold: times as ISO 8601, the cost as a string."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Message:
        """Return the message that `to_dict` made a dictionary of; unknown keys are ignored.

        Raises:
            ValueError: a key is missing, or a value has another type.
        """
        return from_plain(cls, data)


@frozen(kw_only=True)
class ConversationSummary:
    """One row of an agent's list of conversations."""

    id: str
    """The job id, under the name that the service gives it in this list."""
    status: str
    """`active`, `completed`, `error`, `abandoned`, or another word. It is not the status of a turn."""
    updated_at: datetime | None = None
    """When the job last changed. The service does not document which events count as a change."""

    @property
    def job_id(self) -> str:
        """The same id, under the name that every call has for it."""
        return self.id


@frozen(kw_only=True)
class Agent:
    """An agent of the organisation."""

    id: str
    """Its permanent id, `cci_…`."""
    name: str
    """Display name."""
    agent_id: str
    """Its slug; every call takes this or `id`."""
    instances_count: int | None = None
    """Number of containers."""
    description: str | None = None
    """Its description."""
    is_self_hosted: bool | None = None
    """Whether it runs on the organisation's own machines."""
    system_prompt: str | None = None
    """Its own system prompt; `None` for the platform's default."""
    created_at: datetime | None = None
    """When it was created."""
    updated_at: datetime | None = None
    """When it last changed."""


def to_plain(model: AttrsInstance) -> dict[str, Any]:
    """Return a model as a dictionary that JSON can hold."""
    return {attribute.name: _plain(getattr(model, attribute.name)) for attribute in fields(type(model))}


def from_plain(cls: type[_ModelT], data: Mapping[str, Any]) -> _ModelT:
    """Return the model that `to_plain` made a dictionary of; unknown keys are ignored.

    Raises:
        ValueError: a key is missing, or a value has another type.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"a {cls.__name__} is made from a dictionary, not {type(data).__name__}")  # noqa: TRY004
    try:
        # cattrs before 26.1 cannot do this itself for a generic class with its parameters.
        resolve_types(get_origin(cls) or cls)
        return _converter().structure(data, cls)
    except Exception as error:
        import cattrs  # noqa: PLC0415 - as in `_converter`

        reasons = "; ".join(cattrs.transform_error(error, path=cls.__name__, format_exception=_reason))
        raise ValueError(f"this is no dictionary of a {cls.__name__}: {reasons}") from error


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case Decimal():
            return str(value)
        case tuple() | list():
            return [_plain(entry) for entry in value]
        case Mapping():
            return {name: _plain(entry) for name, entry in value.items()}
        case _ if attrs_has(type(value)):
            return to_plain(value)
        case _:
            return value


def _reason(error: BaseException, _: type | None) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def _exactly(kind: type) -> Callable[[object, object], Any]:
    """Return a reader of values of one type, which converts nothing."""

    def read(value: object, _: object) -> Any:
        if type(value) is not kind:
            raise TypeError(f"{kind.__name__} expected, got {value!r:.80}")
        return value

    return read


def _read_time(value: object, _: object) -> datetime:
    time = datetime.fromisoformat(_exactly(str)(value, None))
    if time.tzinfo is None:
        raise ValueError(f"the time {value!r:.80} has no offset")
    return time


def _read_decimal(value: object, _: object) -> Decimal:
    try:
        return Decimal(_exactly(str)(value, None))
    except InvalidOperation:
        raise ValueError(f"{value!r:.80} is not a decimal number") from None


def _read_ids(value: object, _: object) -> tuple[str, ...]:
    read_id = _exactly(str)
    return tuple(read_id(entry, None) for entry in _exactly(list)(value, None))


@cache
def _converter() -> cattrs.Converter:
    import cattrs  # noqa: PLC0415 - only programs that store models need it, and it takes a tenth of the import

    converter = cattrs.Converter()
    for kind in (str, int, bool):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(datetime, _read_time)
    converter.register_structure_hook(Decimal, _read_decimal)
    converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _read_ids)
    return converter
