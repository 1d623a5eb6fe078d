"""What can be uploaded: a path, bytes, a file object, a stream; each looked at once, and read in pieces."""

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
from attrs import frozen

from nairi_async.errors import InvalidArgumentError

CHUNK: Final = 256 * 1024
"""Bytes that are read at once."""

_Chunks = AsyncGenerator[bytes]


@frozen
class Content:
    """A source that was looked at, and found to be one."""

    name: str | None
    """The file's own name, if it has one."""
    size: int | None
    """Bytes; `None` where only reading tells."""
    is_replayable: bool
    """Whether it can be read from the beginning again."""
    read: Callable[[], _Chunks]
    """The bytes, from the beginning."""


async def look_at(source: object) -> Content:
    """A source, ready to be read; `InvalidArgumentError` if nothing can be read from it.

    Reading itself raises what the file, its own reading code, or the disk raises.
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
    raise InvalidArgumentError(f"a path, bytes, a file or a stream is needed, not {type(source).__name__}")


def _of_bytes(given: bytes | bytearray | memoryview) -> Content:
    view = memoryview(given).cast("B")

    async def read() -> _Chunks:
        for begin in range(0, len(view), CHUNK):
            yield bytes(view[begin : begin + CHUNK])

    return Content(None, len(view), is_replayable=True, read=read)


def _of_path(given: str | bytes) -> Content:
    path = Path(os.fsdecode(given))
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise InvalidArgumentError(f"cannot read {_shown(given)}: it is a directory")
    is_regular = stat.S_ISREG(mode)
    size = None
    if is_regular:
        # Opened now, so that a file that may not be read is refused before anything is sent.
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size

    async def read() -> _Chunks:
        async with await anyio.open_file(path, "rb") as file:
            while chunk := await file.read(CHUNK):
                yield chunk

    # What is no regular file, such as the named pipe of a shell's <(command), can be read once.
    return Content(path.name, size, is_replayable=is_regular, read=read)


async def _of_file(file: Any) -> Content:
    # A text file is known by its encoding, which also the wrappers of tempfile and anyio pass on.
    if isinstance(file, io.TextIOBase) or isinstance(getattr(file, "encoding", None), str):
        raise InvalidArgumentError("a file that is opened as text cannot be uploaded; open it with 'rb'")
    name = getattr(file, "name", None)
    # A file may have a number for a name, or a word such as <stdin>.
    name = PurePath(name).name if isinstance(name, str) and not name.startswith("<") else None
    begin, size = await _extent(file)

    async def read() -> _Chunks:
        if begin is not None:
            await _call(file.seek, begin)
        while chunk := _checked(await _call(file.read, CHUNK)):
            yield chunk

    return Content(name, size, is_replayable=begin is not None, read=read)


async def _extent(file: Any) -> tuple[int | None, int | None]:
    """Where reading begins and how much there is behind; `None` for what cannot be wound back."""
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
    """What a method returns, whether it is a coroutine function or blocks, in which case a thread waits."""
    if inspect.iscoroutinefunction(method):
        return await method(*arguments)
    answer = await to_thread.run_sync(lambda: method(*arguments))
    return await answer if inspect.isawaitable(answer) else answer


def _checked(chunk: object) -> bytes:
    if isinstance(chunk, bytes):
        return chunk
    if isinstance(chunk, bytearray | memoryview):
        return bytes(chunk)
    raise InvalidArgumentError(f"reading gave {type(chunk).__name__} where bytes are needed")


def _shown(source: object) -> str:
    return repr(os.fspath(source)) if isinstance(source, str | os.PathLike) else f"the {type(source).__name__}"
