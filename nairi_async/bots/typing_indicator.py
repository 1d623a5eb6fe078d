"""Showing a typing indicator for as long as a turn runs, without ever waiting for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from nairi_async._core.closing import run_shielded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

    from nairi_async.clock import Clock

Typing = AbstractAsyncContextManager[Any] | Callable[[], Awaitable[object]]
"""A platform's typing indicator: its own context manager, or a function that shows it for some seconds."""

# Seconds that a platform has to hide its indicator before the attempt is cancelled.
_HIDING_TIME: Final = 10.0
_log = logging.getLogger("nairi_async.bots")
# The event loop keeps no references to tasks.
_hiding: set[asyncio.Task[None]] = set()


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run work in a task while the block runs; at the end of the block, cancel it and wait for its end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await run_shielded(asyncio.wait([task]))


@asynccontextmanager
async def typing_shown(typing: Typing | None, clock: Clock, interval: float) -> AsyncGenerator[None]:
    """Show the indicator while the block runs, which never waits for it. Only log what the platform raises."""
    if typing is None:
        yield
        return
    is_over = asyncio.Event()
    if isinstance(typing, AbstractAsyncContextManager):
        shown = asyncio.create_task(_logged(_entered(typing, is_over)))
    else:
        shown = asyncio.create_task(_logged(_repeated(typing, clock, interval)))
    _hiding.add(shown)
    shown.add_done_callback(_hiding.discard)
    try:
        yield
    finally:
        if isinstance(typing, AbstractAsyncContextManager):
            is_over.set()
            # Platforms whose indicator is hidden without a request have done so after two steps.
            asyncio.get_running_loop().call_later(_HIDING_TIME, shown.cancel)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        else:
            shown.cancel()


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 - the turn matters more than any error of the platform
        _log.warning("the typing indicator failed: %r", error)


async def _repeated(typing: Callable[[], Awaitable[object]], clock: Clock, interval: float) -> None:
    while True:
        await typing()
        await clock.sleep(interval)


async def _entered(typing: AbstractAsyncContextManager[Any], is_over: asyncio.Event) -> None:
    """Enter the indicator, and leave it at the end of the block; cancel an entering that takes longer."""
    entering = asyncio.ensure_future(typing.__aenter__())
    waiting = asyncio.ensure_future(is_over.wait())
    try:
        await asyncio.wait({entering, waiting}, return_when=asyncio.FIRST_COMPLETED)
        entering.cancel()
        await asyncio.wait({entering})
        if entering.cancelled():
            return
        entering.result()
        await waiting
    finally:
        entering.cancel()
        waiting.cancel()
    # It is not given the block's exception: it cannot suppress one.
    await typing.__aexit__(None, None, None)
