"""Up to where an agent's conversations are known: what to store between two synchronisations."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

OVERLAP: Final = timedelta(seconds=5)
"""How far behind the newest known change the next synchronisation begins, by the service's clock.

A change that the service stamps a little before it shows it, or with the time of another one, is found there.
"""

_VERSION: Final = 1


def _pairs(seen: Mapping[str, datetime]) -> tuple[tuple[str, datetime], ...]:
    return tuple(sorted(dict(seen).items()))


@frozen
class Checkpoint:
    """What `sync` has handed over, so that the next one gives only what came after.

    It holds times of the service alone, so the clock of this machine does not matter. It is a value: equal, hashable,
    picklable, and `to_json` makes a text of it.
    """

    updated_at: datetime | None = None
    """Everything that changed until then was handed over; `None`: nothing was."""
    seen: tuple[tuple[str, datetime], ...] = field(default=(), converter=_pairs, repr=False)
    """What was handed over within `OVERLAP` before that time and after it: job ids, each with its `updated_at`."""

    def to_json(self) -> str:
        """One line of JSON."""
        document = {
            "version": _VERSION,
            "updated_at": None if self.updated_at is None else self.updated_at.isoformat(),
            "seen": {job_id: time.isoformat() for job_id, time in self.seen},
        }
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Checkpoint:
        """The checkpoint that `to_json` wrote.

        Raises:
            InvalidArgumentError: it is none, or comes from a later version of this library.
        """
        try:
            document: Any = json.loads(text)
            if document["version"] != _VERSION:
                raise InvalidArgumentError(f"the checkpoint is of version {document['version']!r}, not {_VERSION}")
            updated_at = document["updated_at"]
            return cls(
                None if updated_at is None else _time(updated_at),
                {str(job_id): _time(time) for job_id, time in document["seen"].items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, InvalidArgumentError):
                raise
            raise InvalidArgumentError("this is no checkpoint, as Checkpoint.to_json writes it") from error


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time without an offset")
    return time.astimezone(UTC)
