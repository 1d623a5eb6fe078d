"""Lists that are read page by page during the iteration."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from nairi_async._core.loop_lock import LoopLock
from nairi_async.amigo.models import AmigoMessage, ConversationInfo
from nairi_async.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Self

    from nairi_async.amigo.wire import Page

_T = TypeVar("_T")

# Pages one after another without a new row, after which a list that claims to go on is given up.
_MOST_EMPTY_PAGES: Final = 3


class _Listing(Generic[_T]):
    """The rows of a list, in the order of the service. A `__anext__` that was cancelled or failed can be called again.

    The meaning of the service's `continuation_token` is not documented. Where the list changes between two pages, a row
    may be missed; a row that comes again is left out.
    """

    def __init__(
        self, read: Callable[[Sequence[tuple[str, str]]], Awaitable[Page]], query: Sequence[tuple[str, str]]
    ) -> None:
        self._read = read
        self._query = tuple(query)
        self._token: int | None = None
        self._is_finished = False
        self._empty_pages = 0
        self._buffer: deque[_T] = deque()
        self._seen: set[str] = set()
        self._reading = LoopLock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        """Return the next row; read a page only when the last one is used up."""
        # Two tasks may iterate over one listing: each row then goes to one of them.
        async with self._reading:
            while not self._buffer:
                if self._is_finished:
                    raise StopAsyncIteration
                await self._read_page()
            return self._buffer.popleft()

    async def _read_page(self) -> None:
        following = [] if self._token is None else [("continuation_token", str(self._token))]
        page = await self._read([*self._query, *following])
        # No await from here on, so that a cancellation cannot lose the page.
        for row in page.rows:
            if not row.id or row.id not in self._seen:
                self._seen.add(row.id)
                self._buffer.append(row)
        self._empty_pages = 0 if self._buffer else self._empty_pages + 1
        if page.next is not None and self._empty_pages >= _MOST_EMPTY_PAGES:
            raise DecodeError("the list cannot be read: page after page brings no new row, and more is said to follow")
        self._token, self._is_finished = page.next, page.next is None


class AmigoConversations(_Listing[ConversationInfo]):
    """Conversations, page by page. Made by `AmigoSession.conversations`."""


class AmigoMessages(_Listing[AmigoMessage]):
    """The messages of a conversation, page by page. Made by `AmigoSession.messages`."""
