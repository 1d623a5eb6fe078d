"""The progress of a batch: a bar on a terminal, elsewhere a plain line at intervals."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from nairi_async.cli.formatting import clean

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from nairi_async.batch import BatchStatus
    from nairi_async.cli.screen import Screen
    from nairi_async.clock import Clock

# Seconds between two updates, on a terminal and in a log file.
_DRAW_INTERVAL: Final = 0.2
_LOG_INTERVAL: Final = 10.0
_BAR_COLUMNS: Final = 24
_MINUTE: Final = 60
_HOUR: Final = 3600
# Outcomes that are needed to estimate a rate.
_MIN_SAMPLE: Final = 5


class ProgressBar:
    """Shows the progress of a batch on a screen, from now on.

    Args:
        screen: The screen.
        clock: The clock.
        status: Returns the batch's status.
        total: Returns the number of prompts, estimated if need be; `None` if it is not known.
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
        self._ended_before = first.done + first.failed
        self.is_stopping = False
        """Whether the batch only waits for prompts on their way, and no longer for turns."""
        self._is_drawn = False
        self._logged = ""

    def show(self, text: str, *styles: str) -> None:
        """Show a line above the bar."""
        self._clear()
        self._screen.show(text, *styles)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Keep the screen up to date."""
        updating = asyncio.create_task(self._update())
        try:
            yield
        finally:
            updating.cancel()
            await asyncio.gather(updating, return_exceptions=True)
            self._clear()

    def line(self) -> str:
        """Return the progress on one line."""
        status = self._status()
        ended = status.done + status.failed
        total = self._total()
        if self.is_stopping:
            parts = [summary(status), f"{status.sending:,} on the way"]
        else:
            parts = [summary(status), f"{status.running + status.sending:,} running"]
        elapsed = self._clock.monotonic() - self._started_at
        new = ended - self._ended_before
        if total is not None and new >= _MIN_SAMPLE and not self.is_stopping:
            parts.append(f"{_duration(max(0.0, total - ended) / new * elapsed)} left")
        text = ", ".join(parts)
        if self._screen.style.width is None or not total:
            return text
        filled = int(_BAR_COLUMNS * min(1.0, ended / total))
        return f"[{'#' * filled}{'.' * (_BAR_COLUMNS - filled)}] {text}"

    async def _update(self) -> None:
        is_terminal = self._screen.style.width is not None
        while True:
            await self._clock.sleep(_DRAW_INTERVAL if is_terminal else _LOG_INTERVAL)
            if is_terminal:
                self._draw()
            elif (line := self.line()) != self._logged:
                self._logged = line
                self._screen.show(line)

    def _draw(self) -> None:
        width = self._screen.style.width or 0
        line = self.line()[: max(1, width - 1)]
        # Blanks, since some terminals know no sequence that clears a line.
        self._screen.stream.write(f"\r{line:<{max(1, width - 1)}}")
        self._screen.stream.flush()
        self._is_drawn = True

    def _clear(self) -> None:
        if self._is_drawn:
            self._screen.stream.write(f"\r{'':<{max(1, (self._screen.style.width or 0) - 1)}}\r")
            self._is_drawn = False


def summary(status: BatchStatus) -> str:
    """Return what has ended and its cost."""
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
