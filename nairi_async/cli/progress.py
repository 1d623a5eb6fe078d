"""How a batch gets on: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from nairi_async.cli.output import clean

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from nairi_async.batch import BatchStatus
    from nairi_async.cli.style import Screen
    from nairi_async.clock import Clock

# Seconds between two looks, for eyes and for log files.
_DRAWN: Final = 0.2
_LOGGED: Final = 10.0
_BAR: Final = 24
_MINUTE: Final = 60
_HOUR: Final = 3600
# Ends that a rate is worth telling from.
_ENOUGH: Final = 5


class Progress:
    """Tells on a screen how a batch gets on, beginning now.

    Args:
        screen: Where to.
        clock: The time to live by.
        status: How the batch stands.
        total: How many prompts there are, as far as it can be told; `None` where it cannot.
    """

    def __init__(
        self, screen: Screen, clock: Clock, status: Callable[[], BatchStatus], total: Callable[[], float | None]
    ) -> None:
        self._screen = screen
        self._clock = clock
        self._status = status
        self._total = total
        self._started_at = clock.monotonic()
        first = status()
        self._had_ended = first.done + first.failed
        self.is_stopping = False
        """Whether it only waits for what is on its way: the batch looks after no turn any more."""
        self._is_drawn = False
        self._logged = ""

    def show(self, text: str, *polls: str) -> None:
        """Show a line above the bar."""
        self._wipe()
        self._screen.show(text, *polls)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Keep the screen up to date."""
        ledger_errors = asyncio.create_task(self._tell())
        try:
            yield
        finally:
            ledger_errors.cancel()
            await asyncio.gather(ledger_errors, return_exceptions=True)
            self._wipe()

    def line(self) -> str:
        """How it stands, on one line."""
        status = self._status()
        ended = status.done + status.failed
        total = self._total()
        if self.is_stopping:
            parts = [summary(status), f"{status.sending:,} on the way"]
        else:
            parts = [summary(status), f"{status.running + status.sending:,} running"]
        elapsed = self._clock.monotonic() - self._started_at
        since = ended - self._had_ended
        if total is not None and since >= _ENOUGH and not self.is_stopping:
            parts.append(f"{_duration(max(0.0, total - ended) / since * elapsed)} left")
        text = ", ".join(parts)
        if self._screen.style.width is None or not total:
            return text
        filled = int(_BAR * min(1.0, ended / total))
        return f"[{'#' * filled}{'.' * (_BAR - filled)}] {text}"

    async def _tell(self) -> None:
        is_terminal = self._screen.style.width is not None
        while True:
            await self._clock.sleep(_DRAWN if is_terminal else _LOGGED)
            if is_terminal:
                self._draw()
            elif (line := self.line()) != self._logged:
                self._logged = line
                self._screen.show(line)

    def _draw(self) -> None:
        width = self._screen.style.width or 0
        line = self.line()[: max(1, width - 1)]
        # Blanks instead of a sequence that wipes: some terminals know none.
        self._screen.stream.write(f"\r{line:<{max(1, width - 1)}}")
        self._screen.stream.flush()
        self._is_drawn = True

    def _wipe(self) -> None:
        if self._is_drawn:
            self._screen.stream.write(f"\r{'':<{max(1, (self._screen.style.width or 0) - 1)}}\r")
            self._is_drawn = False


def summary(status: BatchStatus) -> str:
    """What has ended and what it cost."""
    parts = [f"{status.done:,} done", f"{status.failed:,} failed"]
    if status.cost_usd:
        parts.append(f"${status.cost_usd:f}")
    return clean(", ".join(parts))


def _duration(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"
