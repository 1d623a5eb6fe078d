"""A file that a chat sends to an agent."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_MAX_SHOWN: Final = 80


class File:
    """A named file for `attachments=`: its bytes, or a function that fetches them when the prompt's turn has come.

    A platform gives a name and a way to download. A download before `Chats.ask` is called would let a later prompt of
    the chat overtake this one, so give the method itself, such as discord.py's `attachment.read`.

    Args:
        name: The file's name; the service derives its type from it.
        content: The bytes, or a function that is awaited for them, once.
    """

    def __init__(self, name: str, content: bytes | bytearray | Callable[[], Awaitable[bytes | bytearray]]) -> None:
        if not isinstance(name, str) or not name:
            raise InvalidArgumentError(f"a file's name must be a text that is not empty, not {name!r:.{_MAX_SHOWN}}")
        if not isinstance(content, bytes | bytearray) and not callable(content):
            raise InvalidArgumentError(f"a file's content must be bytes or a function, not {type(content).__name__}")
        self.name = name
        self._content = content
        self._file: io.BytesIO | None = None

    def __repr__(self) -> str:
        return f"File({self.name!r})"

    async def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes from the current position; by default all that are left."""
        return (await self._opened()).read(size)

    async def seekable(self) -> bool:
        """Return `True`: a failed upload starts again."""
        return True

    async def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the current position, as in any file."""
        return (await self._opened()).seek(offset, whence)

    async def tell(self) -> int:
        """Return the current position."""
        return (await self._opened()).tell()

    async def _opened(self) -> io.BytesIO:
        if self._file is None:
            content = self._content if isinstance(self._content, bytes | bytearray) else await self._content()
            if not isinstance(content, bytes | bytearray):
                raise InvalidArgumentError(f"fetching {self.name!r} returned {type(content).__name__}, not bytes")
            self._file = io.BytesIO(content)
        return self._file
