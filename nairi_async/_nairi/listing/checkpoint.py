"""`Checkpoint`: how far an agent's conversations were synchronised, to be stored between two synchronisations."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from attrs import field

from nairi_async._core.exports import publish
from nairi_async._core.records import frozen
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

OVERLAP: Final = timedelta(seconds=5)
"""The next synchronisation begins this long before the newest known change, by the service's clock.

So it finds a change that the service listed late, or with the time of another change.
"""

_VERSION: Final = 1


def _pairs(seen: Mapping[str, datetime]) -> tuple[tuple[str, datetime], ...]:
    return tuple(sorted(dict(seen).items()))


@frozen
class Checkpoint:
    """The conversations that a `sync` has yielded, so that the next one yields only later changes.

    It contains times of the service only, so this machine's clock does not matter. It can be compared, hashed and
    pickled; `to_dict` and `to_json` make it a dictionary and a text.
    """

    updated_at: datetime | None = None
    """Every change up to this time was yielded; `None`: none was."""
    seen: tuple[tuple[str, datetime], ...] = field(default=(), converter=_pairs, repr=False)
    """The conversations yielded with a time later than `OVERLAP` before it: job ids, each with its `updated_at`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the checkpoint as a dictionary that JSON can hold."""
        return {
            "version": _VERSION,
            "updated_at": None if self.updated_at is None else self.updated_at.isoformat(),
            "seen": {job_id: time.isoformat() for job_id, time in self.seen},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Checkpoint:
        """Return the checkpoint that `to_dict` made a dictionary of; unknown keys are ignored.

        Raises:
            InvalidArgumentError: the dictionary is not of a checkpoint, or of a later version of this library.
        """
        try:
            if data["version"] != _VERSION:
                raise InvalidArgumentError(f"the checkpoint has version {data['version']!r}, not {_VERSION}")
            updated_at = data["updated_at"]
            seen = {str(job_id): _time(time) for job_id, time in data["seen"].items()}
            return cls(None if updated_at is None else _time(updated_at), seen)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, InvalidArgumentError):
                raise
            raise InvalidArgumentError("this is not a checkpoint as `Checkpoint.to_dict` makes it") from error

    def to_json(self) -> str:
        """Return the checkpoint as one line of JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Checkpoint:
        """Return the checkpoint that `to_json` wrote.

        Raises:
            InvalidArgumentError: the text is not a checkpoint, or one of a later version of this library.
        """
        try:
            data = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidArgumentError("this is not a checkpoint as `Checkpoint.to_json` writes it") from error
        return cls.from_dict(data)


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("the time has no offset")
    return time.astimezone(UTC)


publish(__name__)
