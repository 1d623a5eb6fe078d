"""Lists that are read page by page during the iteration."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from nairi_async._core.permits import LoopLock
from nairi_async.amigo.directory_models import ServiceInfo, UserInfo
from nairi_async.amigo.models import AmigoMessage, ConversationInfo
from nairi_async.errors import DecodeError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence
    from typing import Self

    from nairi_async.amigo.models import Insights
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
        self,
        read: Callable[[Sequence[tuple[str, str]]], Awaitable[Page]],
        query: Sequence[tuple[str, str]],
        is_wanted: Callable[[_T], bool] = lambda _row: True,
    ) -> None:
        self._is_wanted = is_wanted
        self._read = read
        self._query = tuple(query)
        self._token: int | None = None
        self._is_finished = False
        self._empty_pages = 0
        self._buffer: deque[_T] = deque()
        self._seen: set[str] = set()
        self._reading = LoopLock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self._seen)} read, {'all' if self._is_finished else 'more may follow'}>"

    def __aiter__(self) -> Self:
        return self

    def __await__(self) -> Generator[Any, None, list[_T]]:
        """Read all pages that are left, and return their rows."""
        return self._rest().__await__()

    async def _rest(self) -> list[_T]:
        return [row async for row in self]

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
        is_empty = True
        for row in page.rows:
            identity = self._identity(row)
            if not identity or identity not in self._seen:
                is_empty = False
                self._seen.add(identity)
                if self._is_wanted(row):
                    self._buffer.append(row)
        self._empty_pages = self._empty_pages + 1 if is_empty else 0
        if page.next is not None and self._empty_pages >= _MOST_EMPTY_PAGES:
            raise DecodeError("the list cannot be read: page after page brings no new row, and more is said to follow")
        self._token, self._is_finished = page.next, page.next is None

    @staticmethod
    def _identity(row: Any) -> str:
        identity: str = row.id
        return identity


class AmigoConversations(_Listing[ConversationInfo]):
    """Conversations, page by page. Made by `AmigoSession.conversations`."""


class AmigoMessages(_Listing[AmigoMessage]):
    """The messages of a conversation, page by page. Made by `AmigoSession.messages`."""


class AmigoServices(_Listing[ServiceInfo]):
    """Services, page by page. Made by `AmigoSession.services`."""


class AmigoUsers(_Listing[UserInfo]):
    """Users, page by page. Made by `AmigoSession.users`."""

    @staticmethod
    def _identity(row: Any) -> str:
        identity: str = row.user_id
        return identity


class AmigoInsights:
    """The insights of each interaction of a conversation, oldest first, as pairs of its id and `Insights`.

    Made by `AmigoSession.conversation_insights`. A `__anext__` that was cancelled or failed can be called again; an
    interaction of which the service knows no insights raises `NotFoundError` once, and is then left out.
    """

    def __init__(self, messages: AmigoMessages, read: Callable[[str], Awaitable[Insights]]) -> None:
        self._messages = messages
        self._read = read
        self._seen: set[str] = set()
        self._next: str | None = None
        self._reading = LoopLock()

    def __repr__(self) -> str:
        return f"<AmigoInsights: {len(self._seen)} interactions so far>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, Insights]:
        """Return the next interaction and its insights; one request for each, within the limit of the endpoint."""
        async with self._reading:
            while self._next is None:
                interaction = (await anext(self._messages)).interaction_id
                if interaction and interaction not in self._seen:
                    self._seen.add(interaction)
                    self._next = interaction
            interaction = self._next
            try:
                insights = await self._read(interaction)
            except NotFoundError:
                self._next = None
                raise
            self._next = None
            return interaction, insights
