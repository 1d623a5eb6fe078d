"""What goes into a batch and what comes out of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final

from attrs import field, frozen

from nairi_async._core import checks
from nairi_async._core.outcome import PromptOutcome
from nairi_async._nairi.results import Reply
from nairi_async.errors import InvalidArgumentError, NairiError
from nairi_async.models import Turn

_LONGEST_ID: Final = 1024
# In bits: Python refuses to write out much longer numbers.
_WIDEST_ID: Final = 1024
# The largest integer of SQLite.
_LAST_PLACE: Final = 2**63 - 1
_FIELDS: Final = ("prompt", "id", "attachments")
# How like one of these fields another key must be to count as misspelt: `prompts` and `attachment_ids` are.
_LIKENESS: Final = 0.85


@frozen
class BatchItem:
    """One prompt of a batch, with the caller's own name for it."""

    prompt: str
    """The prompt's text."""
    id: str | None = field(default=None, kw_only=True)
    """Its identity in the ledger, unique in the batch. Without one, its prompt and attachments identify it, wherever it
    stands, and outcomes name it by its place, such as `#3`."""
    attachments: tuple[str, ...] = field(default=(), kw_only=True)
    """Paths of files to upload first; at most ten."""
    place: int | None = field(default=None, kw_only=True)
    """Where it stands in its source, from 1, such as the number of its line; counted by the batch unless given."""

    @classmethod
    def of(cls, given: object, place: int | None = None) -> BatchItem:
        """Return a checked item, made from a plain prompt, a mapping of the same fields, or an item.

        Args:
            given: The prompt or record. Other keys of a mapping are ignored, unless they look misspelt.
            place: Where it stands.

        Raises:
            InvalidArgumentError: it cannot be sent, or a key looks misspelt.
        """
        match given:
            case str():
                fields: Mapping[str, Any] = {"prompt": given}
            case BatchItem():
                fields = {name: getattr(given, name) for name in _FIELDS}
                place = _place(given.place) if given.place is not None else place
            case Mapping():
                _refuse_misspelt(given)
                fields = given
            case _:
                raise InvalidArgumentError(f"expected a prompt or a record, not {type(given).__name__}")
        id_ = _identity(fields.get("id"))
        if "prompt" not in fields:
            raise InvalidArgumentError("the record has no prompt")
        prompt = _storable("prompt", checks.prompt(fields["prompt"]))
        return cls(prompt, id=id_, attachments=_paths(fields.get("attachments")), place=place)

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
    """The prompt; empty where none could be read."""
    turn: Turn | None = None
    """The turn, if it is known that one was started."""
    reply: Reply | None = None
    """The reply, if there is one."""
    error: NairiError | None = None
    """Why there is no reply."""
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
    return BatchOutcome(id=id_, place=place, prompt=prompt, error=error, is_final=False)


def _refuse_misspelt(record: Mapping[Any, Any]) -> None:
    for key in record:
        if key in _FIELDS or not isinstance(key, str):
            continue
        if likely := get_close_matches(key.strip().lower(), _FIELDS, 1, _LIKENESS):
            raise InvalidArgumentError(f"the key {key!r} is not read: did you mean {likely[0]!r}?")


def _identity(given: object) -> str | None:
    if given is None:
        return None
    if isinstance(given, int) and not isinstance(given, bool) and given.bit_length() < _WIDEST_ID:
        return str(given)
    if not isinstance(given, str) or not given.strip() or len(given) > _LONGEST_ID:
        raise InvalidArgumentError(f"an id must be an integer or a string of at most {_LONGEST_ID} characters")
    return _storable("id", given)


def _place(given: object) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not 0 < given <= _LAST_PLACE:
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
