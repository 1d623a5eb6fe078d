"""One file on its way to the service, as a form that is written while it is sent (api: attachments)."""

from __future__ import annotations

import mimetypes
import re
import secrets
import unicodedata
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from nairi_async._core.sources import Content, look_at
from nairi_async.errors import InvalidArgumentError, NairiError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from nairi_async.typing import UploadProgress

MAX_ATTACHMENT_BYTES: Final = 50 * 1024 * 1024
"""Largest file that the service takes, in bytes (api: attachments)."""

_UNKNOWN_TYPE: Final = "application/octet-stream"
_COMPRESSED: Final = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_CONTENT_TYPE: Final = re.compile(rf"{_WORD}/{_WORD}([ \t]*;[\x20-\x7e\t]*)?")
_ESCAPED: Final = str.maketrans({"\\": "\\\\", '"': '\\"'})


class Upload:
    """A checked file as the body of a request; it is produced anew for each attempt.

    `name` is the form's name for the file, `fields` are what stands in the form before it.
    """

    def __init__(
        self,
        content: Content,
        filename: str,
        content_type: str,
        progress: UploadProgress | None,
        *,
        name: str = "file",
        fields: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._content = content
        self._progress = progress
        self._boundary = secrets.token_hex(16)
        self._is_begun = False
        self._failure: Exception | None = None
        parts = [
            f'--{self._boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
            for field, value in fields
        ]
        file = (
            f"--{self._boundary}\r\n"
            f'Content-Disposition: form-data; name="{name}"; filename="{filename.translate(_ESCAPED)}"\r\n'
            f"Content-Type: {content_type}\r\n\r\n"
        )
        self._head = "".join((*parts, file)).encode()
        self._tail = f"\r\n--{self._boundary}--\r\n".encode()

    @classmethod
    async def prepare(
        cls,
        source: object,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        progress: UploadProgress | None = None,
        name: str = "file",
        fields: Iterable[tuple[str, str]] = (),
    ) -> Upload:
        """Look at a source; `InvalidArgumentError`, before any request, if it cannot be uploaded."""
        if progress is not None and not callable(progress):
            raise InvalidArgumentError("progress is something to call with the bytes sent and the size")
        content = await look_at(source)
        filename = checked_filename(filename if filename is not None else content.name or "attachment")
        if content.size == 0:
            raise InvalidArgumentError(f"{filename!r} is empty")
        if content.size is not None and content.size > MAX_ATTACHMENT_BYTES:
            raise _too_large(filename, content.size)
        kind = _checked_type(content_type) or guessed_type(filename)
        return cls(content, filename, kind, progress, name=name, fields=fields)

    @property
    def content_type(self) -> str:
        """The type of the form."""
        return f"multipart/form-data; boundary={self._boundary}"

    @property
    def file_size(self) -> int | None:
        """Bytes of the file; `None` where only reading tells."""
        return self._content.size

    @property
    def size(self) -> int | None:
        """Bytes of the form; `None` where only reading tells."""
        return None if self.file_size is None else len(self._head) + self.file_size + len(self._tail)

    @property
    def is_spent(self) -> bool:
        """Whether it was begun and cannot be read from the beginning again."""
        return self._is_begun and not self._content.is_replayable

    @property
    def failure(self) -> Exception | None:
        """What went wrong on this side, at the last attempt."""
        return self._failure

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The form, piece by piece."""
        self._is_begun, self._failure = True, None
        yield self._head
        async with aclosing(self._file()) as pieces:
            async for piece in pieces:
                yield piece
        yield self._tail

    async def _file(self) -> AsyncGenerator[bytes]:
        sent = 0
        try:
            async with aclosing(self._content.read()) as pieces:
                async for piece in pieces:
                    self._check(sent + len(piece))
                    yield piece
                    # Asked for the next one: this one is with the connection.
                    sent += len(piece)
                    if self._progress is not None:
                        self._progress(sent, self.file_size)
            self._check(sent, at_end=True)
        except (NairiError, OSError) as error:
            self._failure = error if isinstance(error, NairiError) else _unreadable(error)
            raise
        except Exception as error:
            # A callback or a stream of the caller's: whatever it raised is the caller's to see.
            self._failure = error
            raise

    def _check(self, size: int, *, at_end: bool = False) -> None:
        expected = self.file_size
        if size > MAX_ATTACHMENT_BYTES:
            raise _too_large("the stream", size)
        if at_end and size == 0:
            raise InvalidArgumentError("the stream is empty")
        if expected is not None and (size > expected or (at_end and size < expected)):
            raise InvalidArgumentError(f"the file changed while it was read: {expected} bytes were there before")


def checked_filename(name: object) -> str:
    """A name that can stand in the header of a form, as it is: no control characters, no half characters."""
    if not isinstance(name, str):
        raise InvalidArgumentError(f"a filename is a string, not {type(name).__name__}")
    if not name.strip():
        raise InvalidArgumentError("the filename is blank")
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in name):
        raise InvalidArgumentError(f"the filename {name[:80]!r} holds control characters; give another as filename=")
    return name


def guessed_type(filename: str) -> str:
    """The content type that a name suggests."""
    kind, encoding = mimetypes.guess_type(filename, strict=False)
    if encoding is not None:
        return _COMPRESSED.get(encoding, _UNKNOWN_TYPE)
    return kind or _UNKNOWN_TYPE


def _checked_type(content_type: object) -> str | None:
    if content_type is None:
        return None
    if not isinstance(content_type, str) or not _CONTENT_TYPE.fullmatch(content_type):
        raise InvalidArgumentError(f"content_type {content_type!r} is not of the form type/subtype")
    return content_type


def _too_large(name: str, size: int) -> InvalidArgumentError:
    return InvalidArgumentError(f"{name} has {size} bytes: the service takes at most {MAX_ATTACHMENT_BYTES}")


def _unreadable(error: OSError) -> InvalidArgumentError:
    failure = InvalidArgumentError(f"the file could not be read to its end: {error.strerror or error}")
    failure.__cause__ = error
    return failure
