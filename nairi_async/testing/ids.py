"""Identifiers and timestamps in the formats of the services."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from random import Random

from attrs import field, frozen

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# The 26 digits of a ULID, of five bits each, two at a time.
_PAIRS = tuple(first + second for first in _CROCKFORD for second in _CROCKFORD)
_SHIFTS = range(120, -1, -10)
_RANDOM_BITS = 80
_LATEST = (1 << 48) - 1
_LATEST_SECOND = (1 << 32) - 1


@frozen
class IdMaker:
    """Generates prefixed ULIDs and object ids: the same ids for the same seed and times."""

    seed: int = 0
    _random: Random = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_random", Random(self.seed))

    def make(self, prefix: str, at: float) -> str:
        """Return an id such as `job_01KRK1V46BXS73CSNK2VR35NPJ`, sorting by `at` (seconds since the epoch)."""
        number = ((int(min(at * 1000, _LATEST))) << _RANDOM_BITS) | self._random.getrandbits(_RANDOM_BITS)
        digits = [_PAIRS[(number >> shift) & 1023] for shift in _SHIFTS]
        return f"{prefix}_{''.join(digits)}"

    def object_id(self, at: float) -> str:
        """Return 24 hex digits, such as `67d871c23eb91293ecfae8b0`, sorting by the second of `at`."""
        return f"{int(min(at, _LATEST_SECOND)):08x}{self._random.getrandbits(64):016x}"


@lru_cache(maxsize=4096)
def instant(at: float) -> datetime:
    """Return the aware UTC time of `at` (seconds since the epoch), cut to the millisecond the service shows."""
    exact = datetime.fromtimestamp(at, UTC)
    return exact.replace(microsecond=exact.microsecond // 1000 * 1000)


@lru_cache(maxsize=4096)
def stamp(at: float) -> str:
    """Return `at` (seconds since the epoch) as RFC 3339 in UTC with milliseconds and `Z`."""
    return instant(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")
