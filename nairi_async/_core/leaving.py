"""Whether a prompt has left, for whoever was cancelled meanwhile: a cancellation brings no error that tells it."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from nairi_async._core.request import Request


class Leaving:
    """The requests of a block that must not run twice."""

    def __init__(self) -> None:
        self._requests: list[Request] = []

    def note(self, request: Request) -> None:
        """One is about to be sent."""
        self._requests.append(request)

    @property
    def has_left(self) -> bool:
        """Whether any of them was given to a connection, and not refused."""
        return any(request.write_started for request in self._requests)


_watched: ContextVar[Leaving | None] = ContextVar("nairi_async_leaving", default=None)


@contextmanager
def watched() -> Generator[Leaving]:
    """Watch what leaves in this block, and in the tasks that it starts."""
    leaving = Leaving()
    token = _watched.set(leaving)
    try:
        yield leaving
    finally:
        _watched.reset(token)


def note(request: Request) -> None:
    """Tell whoever watches that this is about to be sent."""
    leaving = _watched.get()
    if leaving is not None and not request.idempotent:
        leaving.note(request)
