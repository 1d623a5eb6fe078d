"""Repeats a request about a turn that this session started seconds ago, if a lagging replica responds with 404.

It is not documented whether a conversation is known at once on every server of the service. A prompt for one that is
not found is refused, so it may be repeated like a read.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypeVar

from nairi_async.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nairi_async._nairi.polling.context import PollingContext

_T = TypeVar("_T")

# Seconds after its beginning in which a turn may be unknown to a replica.
_FRESH: Final = 15.0
# Seconds between the attempts; after the last one the error is final.
_WAITS: Final = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
# Half the width of the jitter of these waits.
_JITTER: Final = 0.25


async def through_replica_lag(
    context: PollingContext, id_: str, call: Callable[[], Awaitable[_T]], *, deadline: float = math.inf
) -> _T:
    """Return what `call` returns, and repeat it after a 404 while the turn is new.

    Args:
        context: What the session knows of its turns.
        id_: The conversation, or the user message of its newest turn.
        call: Makes one request.
        deadline: When to stop, by the session's clock.

    Raises:
        NotFoundError: the session did not begin the turn lately, or it is still not found after about ten seconds.
        NairiError: the request failed otherwise.
    """
    clock = context.clock
    for wait in _WAITS:
        try:
            return await call()
        except NotFoundError:
            begun_at = context.begun_at(id_)
            spread = wait * (1.0 + _JITTER * (2.0 * context.random() - 1.0))
            now = clock.monotonic()
            if begun_at is None or now - begun_at > _FRESH or now + spread >= deadline:
                raise
        await context.executor.sleep(spread)
    return await call()
