"""Handles Ctrl-C and SIGTERM in the commands that stop in order."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType


@contextmanager
def interrupts(interrupt: Callable[[int], object], *, handled: int = 1) -> Generator[Callable[[], bool]]:
    """Handle the first signals, `handled` of them, in the event loop; the next one ends the process.

    Args:
        interrupt: Called in the loop for each signal, with how many have come by then.
        handled: Number of signals; after so many, the one that came is the system's own again.

    Yields:
        A function that returns whether a signal has come.
    """
    loop = asyncio.get_running_loop()
    count = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count >= handled:
            signal.signal(number, before[number])
        loop.call_soon_threadsafe(lambda: interrupt(count))

    # The loop has handlers of its own, but not on Windows.
    before: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: count > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
