"""The progress of a batch: a bar on a terminal, elsewhere a plain line at intervals."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from nairi_async._core.json_body import plain_decimal
from nairi_async.cli.formatting import clean

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Container, Mapping

    from nairi_async.batch import BatchStatus
    from nairi_async.cli.screen import Screen
    from nairi_async.clock import Clock

# Seconds between two updates, on a terminal and in a log file.
_DRAW_INTERVAL: Final = 0.2
_LOG_INTERVAL: Final = 10.0
_BAR_COLUMNS: Final = 24
_MIN_BAR_COLUMNS: Final = 8
# The parts of a line: the last ones are left out first where they do not fit.
_BY_IMPORTANCE: Final = ("total", "left", "failed", "done", "under way", "cost")
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
        total: Returns the number of prompts; `None` if it is not known.
    """

    def __init__(
        self, screen: Screen, clock: Clock, status: Callable[[], BatchStatus], total: Callable[[], int | None]
    ) -> None:
        self._screen = screen
        self._clock = clock
        self._status = status
        self._total = total
        self._started_at = clock.monotonic()
        first = status()
        self._ended_before = first.done + first.failed
        self.is_stopping = False
        """Whether the batch only waits for prompts being sent, and no longer for turns."""
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
        """Return the progress on one line: on a terminal what fits, the most important first."""
        status = self._status()
        ended = status.done + status.failed
        total = self._total()
        under_way = f"{status.sending:,} on the way" if self.is_stopping else f"{_under_way(status):,} running"
        parts = {
            "total": "" if total is None else f"{ended:,} of {total:,}",
            "done": f"{status.done:,} done",
            "failed": f"{status.failed:,} failed",
            "cost": f"${plain_decimal(status.cost_usd)}" if status.cost_usd else "",
            "under way": under_way,
            "left": self._time_left(ended, total),
        }
        if self._screen.style.width is None:
            return _joined(parts, parts)
        columns = self._screen.style.width - 1
        # A bar, its brackets, and the space before the text.
        reserved = _MIN_BAR_COLUMNS + 3 if total else 0
        shown: list[str] = []
        for name in _BY_IMPORTANCE:
            if len(_joined(parts, [*shown, name])) <= columns - reserved:
                shown.append(name)
        if total and "total" not in shown:
            return parts["total"][:columns]
        text = _joined(parts, shown)
        if not total:
            return text
        bar = min(_BAR_COLUMNS, columns - len(text) - 3)
        filled = int(bar * min(1.0, ended / total))
        return f"[{'#' * filled}{'.' * (bar - filled)}] {text}"

    def _time_left(self, ended: int, total: int | None) -> str:
        new = ended - self._ended_before
        if total is None or new < _MIN_SAMPLE or self.is_stopping:
            return ""
        elapsed = self._clock.monotonic() - self._started_at
        return f"{_duration(max(0, total - ended) / new * elapsed)} left"

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


def _joined(parts: Mapping[str, str], shown: Container[str]) -> str:
    text = ", ".join(part for name, part in parts.items() if part and name in shown and name != "total")
    return ": ".join(part for part in (parts["total"] if "total" in shown else "", text) if part)


def _under_way(status: BatchStatus) -> int:
    return status.running + status.sending


def summary(status: BatchStatus) -> str:
    """Return what has ended and its cost."""
    parts = [f"{status.done:,} done", f"{status.failed:,} failed"]
    if status.cost_usd:
        parts.append(f"${plain_decimal(status.cost_usd)}")
    return clean(", ".join(parts))


def _duration(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"
