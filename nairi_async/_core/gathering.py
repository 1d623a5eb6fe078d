"""Several calls, some at a time, whose first failure ends the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_T = TypeVar("_T")


async def gather_limited(calls: Sequence[Callable[[], Awaitable[_T]]], *, at_once: int) -> list[_T]:
    """What the calls return, in their order; the first failure is raised as it is."""
    slots = asyncio.Semaphore(at_once)

    async def made(call: Callable[[], Awaitable[_T]]) -> _T:
        async with slots:
            return await call()

    tasks = [asyncio.ensure_future(made(call)) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
