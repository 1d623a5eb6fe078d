"""Ends a run early: cancels what waits, and leaves alone what sends."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager


class StopSwitch:
    """Ends a run early: nothing more is started, waits are cancelled, prompts being sent are recorded."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self.is_stopped: bool = False
        """Whether nothing more is started."""

    def stop(self) -> None:
        """Start nothing more and stop waiting; prompts being sent are still recorded. Harmless when repeated."""
        self.is_stopped = True
        for task in self._tasks:
            task.cancel()

    def stoppable(self) -> AbstractContextManager[None]:
        """Let `stop` cancel the current task in this block, where that leaves no prompt in doubt."""
        return _Stoppable(self, self._tasks)


class _Stoppable(AbstractContextManager[None]):
    """A block that `StopSwitch.stop` ends. A class and no generator: thousands wait in one, and a frame is memory."""

    __slots__ = ("_switch", "_tasks")

    def __init__(self, switch: StopSwitch, tasks: set[asyncio.Task[object]]) -> None:
        self._switch, self._tasks = switch, tasks

    def __enter__(self) -> None:
        if self._switch.is_stopped:
            # Raised here: a cancellation would only come at the next wait, which may be after the block.
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._tasks.add(task)

    def __exit__(self, *_: object) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - as above
        self._tasks.discard(task)
