"""An answer that is read as it comes, with its place among the session's connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nairi_async._core.rate_limits import Limiter
    from nairi_async._core.request import ResponseStream
    from nairi_async._core.statistics import Counters


class Stream:
    """The pieces of a successful answer. Read to its end or closed, it gives connection and place back at once."""

    def __init__(self, incoming: ResponseStream, limiter: Limiter, counters: Counters) -> None:
        self._incoming = incoming
        self._limiter = limiter
        self._counters = counters
        self._is_open = True

    async def read(self) -> bytes:
        """The next piece; none at the end. A cancelled call loses nothing.

        Raises:
            ConnectionFailedError, RequestTimeoutError: it broke off, or was silent for too long.
            DecodeError: it is larger than its request allows.
        """
        piece = await self._incoming.read()
        self._counters.bytes_received += len(piece)
        if not piece:
            self.close()
        return piece

    def close(self) -> None:
        """Let go of the connection. Harmless when repeated."""
        if self._is_open:
            self._is_open = False
            self._incoming.close()
            self._limiter.leave()
