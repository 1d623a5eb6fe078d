"""Sources of an upload: a path, bytes, a file object or a stream, inspected once and read in chunks."""

from __future__ import annotations

import inspect
import io
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from pathlib import Path, PurePath
from typing import Any, Final

import anyio
from anyio import to_thread

from nairi_async._core.records import frozen
from nairi_async.errors import InvalidArgumentError

CHUNK_SIZE: Final = 256 * 1024
"""Bytes read at a time."""

_Chunks = AsyncGenerator[bytes]


@frozen
class Content:
    """An inspected source."""

    name: str | None
    """The file's own name, if it has one."""
    size: int | None
    """Bytes; `None` if it is unknown before the end."""
    is_replayable: bool
    """Whether it can be read again from the beginning."""
    read: Callable[[], _Chunks]
    """Returns an iterator over the bytes, from the beginning."""


async def inspect_source(source: object) -> Content:
    """Return a source ready to be read; raise `InvalidArgumentError` if nothing can be read from it.

    Reading it may still raise what its own code or the operating system raises.
    """
    try:
        match source:
            case bytes() | bytearray() | memoryview():
                return _of_bytes(source)
            case str() | os.PathLike():
                return await to_thread.run_sync(_of_path, os.fspath(source))
            case _ if callable(getattr(source, "read", None)):
                return await _of_file(source)
            case AsyncIterable():
                return Content(None, None, is_replayable=False, read=lambda: _stream(source))
            case _:
                pass
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {_shown(source)}: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:
        if isinstance(error, InvalidArgumentError):
            raise
        raise InvalidArgumentError(f"cannot read {_shown(source)}: {error}") from error
    raise InvalidArgumentError(f"cannot upload {type(source).__name__}: give a path, bytes, a binary file or a stream")


def _of_bytes(given: bytes | bytearray | memoryview) -> Content:
    view = memoryview(given).cast("B")

    async def read() -> _Chunks:
        for begin in range(0, len(view), CHUNK_SIZE):
            yield bytes(view[begin : begin + CHUNK_SIZE])

    return Content(None, len(view), is_replayable=True, read=read)


def _of_path(given: str | bytes) -> Content:
    path = Path(os.fsdecode(given))
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise InvalidArgumentError(f"cannot read {_shown(given)}: it is a directory")
    is_regular = stat.S_ISREG(mode)
    size = None
    if is_regular:
        # Opened now, so that an unreadable file is refused before anything is sent.
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size

    async def read() -> _Chunks:
        # Not in a thread, which a cancellation would leave with the open file. A file on a disk opens at once.
        opened = anyio.wrap_file(path.open("rb")) if is_regular else await anyio.open_file(path, "rb")  # noqa: ASYNC230
        async with opened as file:
            while chunk := await file.read(CHUNK_SIZE):
                yield chunk

    # Other kinds, such as the named pipe of a shell's <(command), can be read only once.
    return Content(path.name, size, is_replayable=is_regular, read=read)


async def _of_file(file: Any) -> Content:
    # A text file has an encoding, also inside the wrappers of tempfile and anyio.
    if isinstance(file, io.TextIOBase) or isinstance(getattr(file, "encoding", None), str):
        raise InvalidArgumentError("a file opened in text mode cannot be uploaded; open it with 'rb'")
    name = getattr(file, "name", None)
    # The name may be a file descriptor, or a word such as <stdin>.
    name = PurePath(name).name if isinstance(name, str) and not name.startswith("<") else None
    begin, size = await _extent(file)

    async def read() -> _Chunks:
        if begin is not None:
            await _call(file.seek, begin)
        while chunk := _checked(await _call(file.read, CHUNK_SIZE)):
            yield chunk

    return Content(name, size, is_replayable=begin is not None, read=read)


async def _extent(file: Any) -> tuple[int | None, int | None]:
    """Return where reading begins and the number of bytes from there; `None` for a file that cannot seek."""
    if not callable(getattr(file, "seekable", None)) or not await _call(file.seekable):
        return None, None
    begin = await _call(file.tell)
    end = await _call(file.seek, 0, os.SEEK_END)
    if end is None:
        end = await _call(file.tell)
    await _call(file.seek, begin)
    return begin, max(0, end - begin)


async def _stream(source: AsyncIterable[bytes]) -> _Chunks:
    iterator = aiter(source)
    if isinstance(iterator, AsyncGenerator):
        async with aclosing(iterator):
            async for chunk in iterator:
                yield _checked(chunk)
    else:
        async for chunk in iterator:
            yield _checked(chunk)


async def _call(method: Callable[..., Any], *arguments: object) -> Any:
    """Call a method: await a coroutine function, and run a blocking one in a thread."""
    if inspect.iscoroutinefunction(method):
        return await method(*arguments)
    result = await to_thread.run_sync(lambda: method(*arguments))
    return await result if inspect.isawaitable(result) else result


def _checked(chunk: object) -> bytes:
    if isinstance(chunk, bytes):
        return chunk
    if isinstance(chunk, bytearray | memoryview):
        return bytes(chunk)
    raise InvalidArgumentError(f"the source must yield bytes, not {type(chunk).__name__}")


def _shown(source: object) -> str:
    return repr(os.fspath(source)) if isinstance(source, str | os.PathLike) else f"the {type(source).__name__}"
