"""Closing that a cancellation cannot interrupt."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable

_T = TypeVar("_T")


async def run_shielded(closing: Awaitable[_T]) -> _T:
    """Run something to its end, however often the caller is cancelled meanwhile; then raise the cancellation.

    `asyncio.shield` protects from one cancellation only: the caller continues while the rest still runs. An anyio scope
    protects from anyio's own cancellations only.
    """
    task = asyncio.ensure_future(closing)
    cancellation: asyncio.CancelledError | None = None
    # The scope, since anyio repeats a cancellation in every pass of the loop until the task has left.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as error:
                cancellation = error
    if cancellation is None:
        return task.result()
    raise cancellation from (None if task.cancelled() else task.exception())
