"""Showing a typing indicator for as long as a turn runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from nairi_async._core.closing import run_shielded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

    from nairi_async.clock import Clock

Typing = AbstractAsyncContextManager[Any] | Callable[[], Awaitable[object]]
"""A platform's typing indicator: its own context manager, or a function that shows it for some seconds."""

_FAILED: Final = "the typing indicator failed: %r"
_log = logging.getLogger("nairi_async.bots")


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
    """Show the indicator while the block runs. Only log what the platform raises: the block runs all the same."""
    async with AsyncExitStack() as stack:
        if isinstance(typing, AbstractAsyncContextManager):
            await stack.enter_async_context(_forgiving(typing))
        elif typing is not None:
            await stack.enter_async_context(background(_repeat(typing, clock, interval)))
        yield


async def _repeat(typing: Callable[[], Awaitable[object]], clock: Clock, interval: float) -> None:
    while True:
        try:
            await typing()
        except Exception as error:  # noqa: BLE001 - the turn matters more than any error of the platform
            _log.warning(_FAILED, error)
            return
        await clock.sleep(interval)


@asynccontextmanager
async def _forgiving(typing: AbstractAsyncContextManager[Any]) -> AsyncGenerator[None]:
    entered = False
    try:
        await typing.__aenter__()
        entered = True
    except Exception as error:  # noqa: BLE001 - see above
        _log.warning(_FAILED, error)
    try:
        yield
    finally:
        # It is not given the block's exception, so that it cannot suppress one.
        if entered:
            try:
                await typing.__aexit__(None, None, None)
            except Exception as error:  # noqa: BLE001 - see above
                _log.warning(_FAILED, error)
