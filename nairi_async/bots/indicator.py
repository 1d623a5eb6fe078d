"""Showing that an answer is on its way, for as long as it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

    from nairi_async.clock import Clock

Typing = AbstractAsyncContextManager[Any] | Callable[[], Awaitable[object]]
"""A platform's typing indicator: its own context manager, or what shows it for some seconds, which is repeated."""

_log = logging.getLogger("nairi_async.bots")


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Let some work go on beside a block; what is left of it at the block's end is cancelled, and over."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def shown(typing: Typing | None, clock: Clock, every: float) -> AsyncGenerator[None]:
    """Show it while the block runs. A platform that fails to show it is logged, and the block runs all the same."""
    async with AsyncExitStack() as stack:
        if isinstance(typing, AbstractAsyncContextManager):
            await stack.enter_async_context(_forgiving(typing))
        elif typing is not None:
            await stack.enter_async_context(beside(_repeated(typing, clock, every)))
        yield


async def _repeated(typing: Callable[[], Awaitable[object]], clock: Clock, every: float) -> None:
    while True:
        try:
            await typing()
        except Exception as error:  # noqa: BLE001 - whatever the platform raises, the turn is worth more
            _log.warning("the typing indicator failed: %r", error)
            return
        await clock.sleep(every)


@asynccontextmanager
async def _forgiving(typing: AbstractAsyncContextManager[Any]) -> AsyncGenerator[None]:
    entered = False
    try:
        await typing.__aenter__()
        entered = True
    except Exception as error:  # noqa: BLE001 - see above
        _log.warning("the typing indicator failed: %r", error)
    try:
        yield
    finally:
        # It learns nothing of how the turn ended: an indicator has no say in it.
        if entered:
            try:
                await typing.__aexit__(None, None, None)
            except Exception as error:  # noqa: BLE001 - see above
                _log.warning("the typing indicator failed: %r", error)
