"""A file on its way from a chat to an agent."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_SHOWN: Final = 80


class File:
    """A named file for `attachments=`: its bytes, or what fetches them when the prompt's turn has come.

    A platform hands out a name and a way to download. Fetching before `Chats.ask` is called would let a later prompt
    of the chat overtake this one; so give the method itself, such as discord.py's `attachment.read`.

    Args:
        name: The file's name; the service tells its kind from it.
        content: The bytes, or a function that is awaited for them, once.
    """

    def __init__(self, name: str, content: bytes | bytearray | Callable[[], Awaitable[bytes | bytearray]]) -> None:
        if not isinstance(name, str) or not name:
            raise InvalidArgumentError(f"a file has a name, not {name!r:.{_SHOWN}}")
        if not isinstance(content, bytes | bytearray) and not callable(content):
            raise InvalidArgumentError(f"bytes or a function are needed, not {type(content).__name__}")
        self.name = name
        self._content = content
        self._file: io.BytesIO | None = None

    def __repr__(self) -> str:
        return f"File({self.name!r})"

    async def read(self, size: int = -1) -> bytes:
        """At most that many bytes from where reading stands; all of them unless given."""
        return (await self._opened()).read(size)

    async def seekable(self) -> bool:
        """Always: a failed upload begins again."""
        return True

    async def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, as in any file."""
        return (await self._opened()).seek(offset, whence)

    async def tell(self) -> int:
        """Where reading stands."""
        return (await self._opened()).tell()

    async def _opened(self) -> io.BytesIO:
        if self._file is None:
            content = self._content if isinstance(self._content, bytes | bytearray) else await self._content()
            if not isinstance(content, bytes | bytearray):
                raise InvalidArgumentError(f"fetching {self.name!r} gave {type(content).__name__}, not bytes")
            self._file = io.BytesIO(content)
        return self._file
