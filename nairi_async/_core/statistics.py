"""What a session has done so far, counted as it happens."""

from __future__ import annotations

from attrs import define, frozen


@frozen(kw_only=True)
class Stats:
    """What a session has done so far; `print` shows it in four lines."""

    requests: int
    """Requests sent, each attempt counted."""
    retries: int
    """Requests among them that repeated a failed one."""
    bytes_received: int
    """Bytes of the bodies of all answers, decompressed."""
    polls: int
    """Requests that looked for news: of statuses, timelines and listings."""
    turns_ended: int
    """Turns whose end was found."""
    discoveries: int
    """Looks that found news."""
    discovery_delay: float | None
    """Mean seconds between an event and its discovery, taken as half of the time since the look before; `None` before
    the first."""
    open_watches: int
    """Watchers that wait for news right now, between two looks or for the answer to one."""
    waiting_calls: int
    """Calls that wait for a connection, or for a rate limit to pass, right now."""

    @property
    def polls_per_turn(self) -> float | None:
        """Looks for each turn whose end was found; `None` before the first. Looks at turns that still run count."""
        return self.polls / self.turns_ended if self.turns_ended else None

    def __str__(self) -> str:
        each = (
            f": {self.polls_per_turn:.1f} for each of {self.turns_ended:,} turns that ended" if self.turns_ended else ""
        )
        late = f", {self.discovery_delay:.2f} s late on the mean" if self.discovery_delay is not None else ""
        return "\n".join(
            (
                f"requests  {self.requests:,} ({self.retries:,} retries), {_size(self.bytes_received)} received",
                f"looks     {self.polls:,}{each}",
                f"news      found {self.discoveries:,} times{late}",
                f"now       {self.open_watches:,} watches open, {self.waiting_calls:,} calls waiting",
            )
        )


@define
class Counters:
    """The running counts behind `Stats`."""

    requests: int = 0
    retries: int = 0
    bytes_received: int = 0
    polls: int = 0
    turns_ended: int = 0
    discoveries: int = 0
    delays: float = 0.0
    open_watches: int = 0

    def discovered(self, delay: float) -> None:
        """A look has found news that is on the mean so many seconds old."""
        self.discoveries += 1
        self.delays += delay

    def read(self, *, waiting_calls: int) -> Stats:
        """The counts as they are now."""
        return Stats(
            requests=self.requests,
            retries=self.retries,
            bytes_received=self.bytes_received,
            polls=self.polls,
            turns_ended=self.turns_ended,
            discoveries=self.discoveries,
            discovery_delay=self.delays / self.discoveries if self.discoveries else None,
            open_watches=self.open_watches,
            waiting_calls=waiting_calls,
        )


def _size(count: int) -> str:
    """A number of bytes as people say it."""
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:  # noqa: PLR2004 - what the next unit holds
            break
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}" if unit != "bytes" else f"{count} bytes"
