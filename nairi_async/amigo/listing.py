"""Lists that are read page by page, as the iteration goes on (api: list conversations, list messages)."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from nairi_async.amigo.models import AmigoMessage, ConversationInfo
from nairi_async.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Self

    from nairi_async.amigo.wire import Page

_T = TypeVar("_T")

# Pages without a row in a row: a service that says that more follows, and gives none, is asked no further.
_MOST_EMPTY: Final = 3


class _Listing(Generic[_T]):
    """Rows of a list, in the order of the service. A `__anext__` that was cancelled or has failed can be called again.

    What the service's token for the next page stands for is not documented, and so is what it gives when the list
    changes between two pages: a row may then be missed. One that comes again is left out.
    """

    def __init__(
        self, read: Callable[[Sequence[tuple[str, str]]], Awaitable[Page]], query: Sequence[tuple[str, str]]
    ) -> None:
        self._read = read
        self._query = tuple(query)
        self._token: int | None = None
        self._is_finished = False
        self._empty = 0
        self._ready: deque[_T] = deque()
        self._given: set[str] = set()
        self._reading = asyncio.Lock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        """The next row; reads a page only when none is left of the last one."""
        # Two tasks may iterate over one listing: each row then goes to one of them.
        async with self._reading:
            while not self._ready:
                if self._is_finished:
                    raise StopAsyncIteration
                await self._turn_page()
            return self._ready.popleft()

    async def _turn_page(self) -> None:
        following = [] if self._token is None else [("continuation_token", str(self._token))]
        page = await self._read([*self._query, *following])
        # No await from here on: a page that was read is kept.
        for row in page.rows:
            if not row.id or row.id not in self._given:
                self._given.add(row.id)
                self._ready.append(row)
        self._empty = 0 if self._ready else self._empty + 1
        if page.next is not None and self._empty >= _MOST_EMPTY:
            raise DecodeError("the answer cannot be read: the list goes on for ever, and brings nothing new")
        self._token, self._is_finished = page.next, page.next is None


class AmigoConversations(_Listing[ConversationInfo]):
    """Conversations, page by page. Made by `AmigoSession.conversations`."""


class AmigoMessages(_Listing[AmigoMessage]):
    """The messages of a conversation, page by page. Made by `AmigoSession.messages`."""
