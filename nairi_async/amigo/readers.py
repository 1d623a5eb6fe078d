"""The tasks that read one stream, and whether any of them still runs."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Callable


class Readers:
    """The tasks that read one stream.

    A reader is the task that asks for a step, although another may run it, as `asyncio.wait_for` made one for each step
    before Python 3.12. When all readers have ended, the stream is left, though it may still be referred to.

    A task that ended after its only step is not certain to have been the reader: a function of the user's that takes
    one step may run in a task of its own each time. After two such tasks the owner counts as a reader.
    """

    __slots__ = ("_is_left", "_owner", "_steps", "_was_single", "are_done", "ended", "on_ended", "steady")

    def __init__(self) -> None:
        self.steady: asyncio.Task[object] | None = None
        """A reader of which a further step says nothing new."""
        self.are_done: bool = False
        """Whether the stream has ended, or was closed: what is asked for then says nothing."""
        self.ended: int = 0
        """Number of tasks that have ended."""
        self.on_ended: Callable[[], None] | None = None
        """What is called when a task has ended."""
        # The steps that each task asked for. One that has ended is not kept: the frames of its error may hold the
        # stream. Neither is the stream, nor the task that made it.
        self._steps: dict[asyncio.Task[object], int] = {}
        self._owner: ref[asyncio.Task[object]] | None = None
        with suppress(RuntimeError):  # a stream can be made before there is an event loop
            task = asyncio.current_task()
            self._owner = None if task is None else ref(task)
        self._is_left: bool | None = None
        self._was_single = False

    def __contains__(self, task: object) -> bool:
        return task in self._steps

    @property
    def owner(self) -> asyncio.Task[object] | None:
        """The task that made the stream, if it runs."""
        owner = self._owner() if self._owner is not None else None
        return None if owner is None or owner.done() else owner

    @property
    def is_left(self) -> bool | None:
        """Whether all readers have ended: `None` if that is not certain, and also before the first step."""
        return False if self._steps else self._is_left

    @property
    def has_begun(self) -> bool:
        """Whether a step was asked for."""
        return bool(self._steps or self.ended)

    def asked_by(self, task: asyncio.Task[object] | None) -> None:
        """Note that a task asks for a step."""
        if task is not self.steady and task is not None and not self.are_done:
            self._add(task)
            self._steps[task] += 1
            if self._steps[task] > 1:
                self.steady = task

    def forget(self) -> None:
        """Keep nothing of the readers: the stream is closed."""
        for task in self._steps:
            task.remove_done_callback(self._reader_ended)
        self._steps.clear()
        self.steady = self.on_ended = None

    def _add(self, task: asyncio.Task[object]) -> None:
        if task not in self._steps:
            self._steps[task] = 0
            task.add_done_callback(self._reader_ended)

    def _reader_ended(self, task: asyncio.Task[object]) -> None:
        steps = self._steps.pop(task, None)
        if steps is None:  # the stream was closed in the meantime
            return
        self.steady = None
        self.ended += 1
        if steps:
            is_single = steps == 1 and not self._is_owner(task)
            if is_single and self._was_single and (owner := self.owner) is not None:
                self._add(owner)
            self._was_single, self._is_left = is_single, None if is_single else True
        if self.on_ended is not None:
            self.on_ended()

    def _is_owner(self, task: asyncio.Task[object]) -> bool:
        return self._owner is not None and self._owner() is task
