"""What goes into a batch and what comes out of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final

from attrs import field

from nairi_async._core import checks
from nairi_async._core.outcome import PromptOutcome
from nairi_async._core.records import frozen
from nairi_async._nairi import arguments
from nairi_async._nairi.prompt import Prompt
from nairi_async._nairi.results import Reply
from nairi_async.batch.documents import OUTPUT_KEYS
from nairi_async.errors import InvalidArgumentError, NairiError
from nairi_async.models import Turn

_LONGEST_ID: Final = 1024
# In bits: Python refuses to write out much longer numbers.
_WIDEST_ID: Final = 1024
LAST_PLACE: Final = 2**63 - 1
"""The largest integer of SQLite."""
_FIELDS: Final = ("prompt", "prompts", "id", "attachments", "job_id")
# How like one of these fields another key must be to count as misspelt: `promt` and `attachment_ids` are.
_LIKENESS: Final = 0.85


@frozen
class BatchItem:
    """One record of a batch: a prompt, or several in one conversation, with the caller's own name for it."""

    prompt: str
    """The text of the prompt, or of the first one."""
    id: str | None = field(default=None, kw_only=True)
    """Its identity in the ledger, unique in the batch. Without one, its prompt and attachments identify it, wherever it
    stands, and outcomes name it by its place, such as `#3`."""
    attachments: tuple[str, ...] = field(default=(), kw_only=True)
    """Paths of files to upload first; at most ten."""
    follow_ups: tuple[str, ...] = field(default=(), kw_only=True)
    """Further prompts in the same conversation, each sent after the turn before it has completed."""
    job_id: str | None = field(default=None, kw_only=True)
    """The conversation to continue, one of the batch's agent; without one a new conversation is started."""
    fields: Mapping[str, Any] = field(factory=dict, kw_only=True)
    """What else stands in the record, as JSON has it; it comes back in the outcome and in the line of the output."""
    place: int | None = field(default=None, kw_only=True)
    """Where it stands in its source, from 1, such as the number of its line; counted by the batch unless given."""

    @classmethod
    def of(cls, given: object, place: int | None = None) -> BatchItem:
        """Return a checked item, made from a plain prompt, a `Prompt`, a record, or an item.

        Args:
            given: The prompt or record. A record has a `prompt`, or `prompts` for several turns in one conversation,
                and optionally `id`, `attachments` and `job_id`. Its other keys are `fields`, unless they look misspelt.
            place: Where it stands.

        Raises:
            InvalidArgumentError: it cannot be sent, a key looks misspelt, or is one of the output's own.
        """
        fields: Mapping[str, Any] = {}
        match given:
            case str():
                record: Mapping[str, Any] = {"prompt": given}
            case Prompt():
                record = _of_prompt(given)
            case BatchItem():
                record = {"prompts": (given.prompt, *given.follow_ups), "id": given.id}
                record |= {"attachments": given.attachments}
                record |= {} if given.job_id is None else {"job_id": given.job_id}
                fields = given.fields
                place = _place(given.place) if given.place is not None else place
            case Mapping():
                record = given
                fields = {key: value for key, value in given.items() if key not in _FIELDS}
            case _:
                raise InvalidArgumentError(f"expected a prompt or a record, not {type(given).__name__}")
        own = _own_fields(fields)
        id_ = _identity(record.get("id"))
        prompt, *follow_ups = _prompts(record)
        return cls(
            prompt,
            follow_ups=tuple(follow_ups),
            id=id_,
            attachments=_paths(record.get("attachments")),
            job_id=_job_id(record["job_id"]) if "job_id" in record else None,
            fields=own,
            place=place,
        )

    @property
    def prompts(self) -> tuple[str, ...]:
        """All prompts, in their order."""
        return (self.prompt, *self.follow_ups)

    @property
    def name(self) -> str:
        """What errors call it: its id, else its place."""
        return self.id if self.id is not None else place_name(self.place or 0)


@frozen(kw_only=True)
class UnusableItem:
    """A record of the source that cannot be sent; it becomes an outcome with this error."""

    error: InvalidArgumentError
    """Why not."""
    place: int
    """Where it stands in the source, from 1."""


@frozen(kw_only=True)
class BatchOutcome(PromptOutcome[Reply]):
    """How one prompt of a batch stands after this run."""

    id: str
    """The caller's id, else the place, such as `#3`; where an earlier run used that for another prompt, `#3-2`."""
    place: int
    """Where it stood in the source when the batch first took it, from 1."""
    prompt: str
    """The prompt, or the first of several; empty where none could be read."""
    turn: Turn | None = None
    """The turn, or the last one, if it is known that one was started."""
    reply: Reply | None = None
    """The reply, if there is one; of several prompts, that to the last one."""
    replies: tuple[Reply, ...] = ()
    """The replies of all turns, in order: several for a record with several prompts, or after repairs."""
    error: NairiError | None = None
    """Why there is no reply."""
    fields: Mapping[str, Any] = field(factory=dict)
    """The record's other fields, as the ledger stored them when it took the record."""
    is_final: bool
    """Whether the ledger holds this as the end: the prompt is not asked again, unless failures are to be retried.

    Otherwise the next run resumes it: it waits for a turn that runs, looks up a prompt whose response was lost,
    sends a prompt that was not sent, and reads again a record that could not be used.
    """


@frozen(kw_only=True)
class BatchStatus:
    """How far a batch is, in numbers of prompts."""

    agent_id: str
    """The agent, as it was given when the batch began."""
    base_url: str = ""
    """Base URL of the service."""
    done: int = 0
    """Prompts that have a reply."""
    failed: int = 0
    """Prompts that ended without a reply."""
    running: int = 0
    """Running turns: they were started, and their end is not recorded."""
    sending: int = 0
    """Prompts being sent. While no process works on the batch: prompts that may or may not run."""
    unsent: int = 0
    """Prompts that were read and provably do not run: the next run sends them. Unread ones are not counted."""
    unusable: int = 0
    """Records that the latest run read and could not send: they must be corrected."""
    cost_usd: Decimal = Decimal(0)
    """US dollars that agents reported for ended turns, summed exactly."""
    is_active: bool = False
    """Whether a process works on the batch."""

    @property
    def open(self) -> int:
        """Prompts that were read and have not ended."""
        return self.running + self.sending + self.unsent


def place_name(place: int) -> str:
    """Return what outcomes call an item that has no id of its own."""
    return f"#{place}"


def unusable_outcome(error: InvalidArgumentError, place: int, item: BatchItem | None = None) -> BatchOutcome:
    """Return the outcome of a record that cannot be sent."""
    id_, prompt = (place_name(place), "") if item is None else (item.name, item.prompt)
    fields = {} if item is None else item.fields
    return BatchOutcome(id=id_, place=place, prompt=prompt, error=error, fields=fields, is_final=False)


def _own_fields(fields: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the fields of a record that are the caller's own."""
    if not fields:
        return {}
    for key in fields:
        if not isinstance(key, str):
            raise InvalidArgumentError(f"the key {key!r} of the record is no text")
        if likely := get_close_matches(key.strip().lower(), _FIELDS, 1, _LIKENESS):
            raise InvalidArgumentError(f"the key {key!r} is not read: did you mean {likely[0]!r}?")
        if key in OUTPUT_KEYS:
            raise InvalidArgumentError(f"the key {key!r} is one of the output's own: give the field another name")
    try:
        own: dict[str, Any] = json.loads(json.dumps(dict(fields), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"the record's own fields cannot be written as JSON: {error}") from error
    return own


def _of_prompt(given: Prompt) -> dict[str, Any]:
    """Return the record of a `Prompt`."""
    if not all(isinstance(source, str | os.PathLike) for source in given.attachments):
        raise InvalidArgumentError("the attachments of a batch must be paths: a later run has to read them as well")
    paths = [os.fsdecode(source) for source in given.attachments]  # type: ignore[arg-type]  # checked above
    record: dict[str, Any] = {"prompt": given.text, "id": given.key, "attachments": paths}
    if given.job_id is not None:
        record["job_id"] = arguments.job_id(given.job_id)
    return record


def _prompts(record: Mapping[str, Any]) -> list[str]:
    if "prompts" not in record:
        if "prompt" not in record:
            raise InvalidArgumentError("the record has no prompt")
        given: Any = [record["prompt"]]
    else:
        given = record["prompts"]
        if "prompt" in record:
            raise InvalidArgumentError("the record has `prompt` and `prompts`: give one of them")
        if not isinstance(given, list | tuple) or not given:
            raise InvalidArgumentError("prompts must be a list of at least one prompt")
    return [_storable("prompt", checks.prompt(prompt)) for prompt in given]


def _job_id(given: object) -> str:
    if given is None or given == "":
        kind = "null" if given is None else "empty"
        raise InvalidArgumentError(f"job_id is {kind}: leave it out to start a conversation, or name one to continue")
    return _storable("job_id", arguments.job_id(given))


def _identity(given: object) -> str | None:
    if given is None:
        return None
    if isinstance(given, int) and not isinstance(given, bool) and given.bit_length() < _WIDEST_ID:
        return str(given)
    if not isinstance(given, str) or not given.strip() or len(given) > _LONGEST_ID:
        raise InvalidArgumentError(f"an id must be an integer or a string of at most {_LONGEST_ID} characters")
    return _storable("id", given)


def _place(given: object) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not 0 < given <= LAST_PLACE:
        raise InvalidArgumentError("a place must be an integer of at least 1")
    return given


def _paths(given: object) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidArgumentError("attachments must be a list of paths")
    paths = tuple(given)
    if not all(isinstance(path, str) and path for path in paths):
        raise InvalidArgumentError("attachments must be a list of paths")
    if len(paths) > checks.MAX_ATTACHMENTS:
        raise InvalidArgumentError(f"{len(paths)} attachments: the service takes at most {checks.MAX_ATTACHMENTS}")
    return tuple(_storable("path", path) for path in paths)


def _storable(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"the {name} holds half a character, which no request can carry") from error
    return text
