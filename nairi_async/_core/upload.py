"""A file upload: a multipart form that is produced while it is sent."""

from __future__ import annotations

import mimetypes
import re
import secrets
import unicodedata
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from nairi_async._core.sources import Content, inspect_source
from nairi_async.errors import InvalidArgumentError, NairiError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from nairi_async.typing import UploadProgress

MAX_ATTACHMENT_BYTES: Final = 50 * 1024 * 1024
"""Largest file that the service takes, in bytes (https://nairi.ai/docs/api/attachments)."""

_UNKNOWN_TYPE: Final = "application/octet-stream"
_COMPRESSED: Final = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_CONTENT_TYPE: Final = re.compile(rf"{_WORD}/{_WORD}([ \t]*;[\x20-\x7e\t]*)?")
_ESCAPED: Final = str.maketrans({"\\": "\\\\", '"': '\\"'})


class Upload:
    """A checked file as the body of a request. Each attempt produces the body anew.

    `name` is the form's name for the file; `fields` come before it in the form.
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
        self._is_started = False
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
        """Inspect a source and return its upload; raise `InvalidArgumentError` if it cannot be uploaded."""
        if progress is not None and not callable(progress):
            raise InvalidArgumentError("progress must be callable with the bytes sent and the size")
        content = await inspect_source(source)
        filename = checked_filename(filename if filename is not None else content.name or "attachment")
        if content.size == 0:
            raise InvalidArgumentError(f"{filename!r} is empty")
        if content.size is not None and content.size > MAX_ATTACHMENT_BYTES:
            raise _too_large(filename, content.size)
        kind = _checked_type(content_type) or guessed_type(filename)
        return cls(content, filename, kind, progress, name=name, fields=fields)

    @property
    def content_type(self) -> str:
        """The `Content-Type` of the form."""
        return f"multipart/form-data; boundary={self._boundary}"

    @property
    def file_size(self) -> int | None:
        """Bytes of the file; `None` if it is unknown before the end."""
        return self._content.size

    @property
    def size(self) -> int | None:
        """Bytes of the form; `None` if it is unknown before the end."""
        return None if self.file_size is None else len(self._head) + self.file_size + len(self._tail)

    @property
    def is_spent(self) -> bool:
        """Whether it was read in part and cannot be read again from the beginning."""
        return self._is_started and not self._content.is_replayable

    @property
    def failure(self) -> Exception | None:
        """The failure to read the source at the last attempt, if there was one."""
        return self._failure

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the form in chunks."""
        self._is_started, self._failure = True, None
        yield self._head
        async with aclosing(self._file()) as chunks:
            async for chunk in chunks:
                yield chunk
        yield self._tail

    async def _file(self) -> AsyncGenerator[bytes]:
        sent = 0
        try:
            async with aclosing(self._content.read()) as chunks:
                async for chunk in chunks:
                    self._check(sent + len(chunk))
                    yield chunk
                    # The connection requested the next chunk, so it has taken this one.
                    sent += len(chunk)
                    if self._progress is not None:
                        self._progress(sent, self.file_size)
            self._check(sent, at_end=True)
        except (NairiError, OSError) as error:
            self._failure = error if isinstance(error, NairiError) else _unreadable(error)
            raise
        except Exception as error:
            # The caller's own callback or stream raised it, so the caller gets it unchanged.
            self._failure = error
            raise

    def _check(self, size: int, *, at_end: bool = False) -> None:
        expected = self.file_size
        if size > MAX_ATTACHMENT_BYTES:
            raise _too_large("the stream", size)
        if at_end and size == 0:
            raise InvalidArgumentError("the stream is empty")
        if expected is not None and (size > expected or (at_end and size < expected)):
            raise InvalidArgumentError(f"the file changed while it was read: it had {expected} bytes before")


def checked_filename(name: object) -> str:
    """Return a name that can be sent in a form's header unchanged; raise `InvalidArgumentError` for any other."""
    if not isinstance(name, str):
        raise InvalidArgumentError(f"filename must be a string, not {type(name).__name__}")
    if not name.strip():
        raise InvalidArgumentError("the filename is blank")
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in name):
        raise InvalidArgumentError(f"the filename {name[:80]!r} has control characters; give another as filename=")
    return name


def guessed_type(filename: str) -> str:
    """Return the content type that a filename suggests."""
    kind, encoding = mimetypes.guess_type(filename, strict=False)
    if encoding is not None:
        return _COMPRESSED.get(encoding, _UNKNOWN_TYPE)
    return kind or _UNKNOWN_TYPE


def _checked_type(content_type: object) -> str | None:
    if content_type is None:
        return None
    if not isinstance(content_type, str) or not _CONTENT_TYPE.fullmatch(content_type):
        raise InvalidArgumentError(f"content_type must have the form type/subtype, got {content_type!r}")
    return content_type


def _too_large(name: str, size: int) -> InvalidArgumentError:
    return InvalidArgumentError(f"{name} has {size} bytes: the service takes at most {MAX_ATTACHMENT_BYTES}")


def _unreadable(error: OSError) -> InvalidArgumentError:
    failure = InvalidArgumentError(f"the file could not be read to its end: {error.strerror or error}")
    failure.__cause__ = error
    return failure
