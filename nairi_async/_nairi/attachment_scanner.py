"""Decodes an attachment while its JSON arrives, in pieces of any size: pure.

The service sends a file as base64 inside one JSON document (https://nairi.ai/docs/api/attachments/get). Decoded as a
whole, a file of 50 MB would be held three times, as the body, as the text of `data` and as bytes: 180 MB in all. Here
the text of `data` is decoded piece by piece, and only the rest of the document, a few hundred bytes, is buffered for
the ordinary decoder.
"""

from __future__ import annotations

import binascii
from io import BytesIO
from typing import TYPE_CHECKING, Final

from nairi_async._core.json_body import excerpt
from nairi_async._nairi.wire import decode_attachment
from nairi_async.errors import DecodeError

if TYPE_CHECKING:
    from nairi_async._nairi.attachment import Attachment

_PADDING: Final = ord("=")
_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")
_STRUCTURE: Final = frozenset(b'"{}[],')
_ESCAPES: Final = {b"/": b"/", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
# Of \uXXXX, behind the backslash.
_UNICODE_ESCAPE: Final = 5


class AttachmentScanner:
    """The sink for the response body of one attachment: `write` takes pieces, `attachment` returns the file.

    Everything except the top-level string `data` goes to the ordinary decoder, which validates the document. The
    scanner only has to know where strings begin and end.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: _Base64 | None = None
        self._read = self._outside
        self._depth = 0
        self._is_object = False
        self._expects_key = False
        self._key: bytearray | None = None
        self._last_key = b""
        self._escape: bytearray | None = None
        self._failure: ValueError | None = None

    def write(self, chunk: bytes) -> bool:
        """Take the next piece; return whether more is wanted. Nothing is once the data has proved to be no base64."""
        position = 0
        while position < len(chunk) and self._failure is None:
            position = self._read(chunk, position)
        return self._failure is None

    def attachment(self) -> Attachment:
        """Return the file, once the body has ended; raise `DecodeError` if the body holds none."""
        rest = bytes(self._rest)
        if self._data is None:
            return decode_attachment(rest)
        try:
            if self._failure is not None:
                raise self._failure
            content = self._data.finish() if self._read != self._inside_data else None
        except ValueError as error:
            raise DecodeError("the response cannot be read: its data is not base64", excerpt=excerpt(rest)) from error
        return decode_attachment(rest, content)

    def _outside(self, chunk: bytes, position: int) -> int:
        """Read on between strings, where the structure of the document is."""
        end = position
        while end < len(chunk) and chunk[end] not in _STRUCTURE:
            end += 1
        self._rest += chunk[position : end + 1]
        if end < len(chunk):
            self._structure(chunk[end])
        return end + 1

    def _structure(self, byte: int) -> None:
        if byte == _QUOTE:
            self._begin_string()
        elif byte in b"{[":
            self._depth += 1
            if self._depth == 1:
                self._is_object = self._expects_key = byte == ord("{")
        elif byte in b"}]":
            self._depth -= 1
        elif self._depth == 1:
            self._expects_key = self._is_object

    def _begin_string(self) -> None:
        is_top = self._depth == 1 and self._is_object
        if is_top and not self._expects_key and self._last_key == b"data":
            # Of a repeated name the last counts, as for Python's JSON decoder.
            self._data, self._escape, self._read = _Base64(), None, self._inside_data
            return
        self._key = bytearray() if is_top and self._expects_key else None
        self._escape, self._read = None, self._inside_string

    def _inside_string(self, chunk: bytes, position: int) -> int:
        if self._escape is not None:
            # One character is enough: the digits of \uXXXX end no string.
            self._escape = None
            return self._keep(chunk, position, position + 1)
        end = _next_mark(chunk, position)
        if end == len(chunk):
            return self._keep(chunk, position, end)
        if chunk[end] == _BACKSLASH:
            self._escape = bytearray()
            return self._keep(chunk, position, end + 1)
        self._keep(chunk, position, end)
        self._rest.append(_QUOTE)
        if self._key is not None:
            self._last_key, self._key, self._expects_key = bytes(self._key), None, False
        self._read = self._outside
        return end + 1

    def _keep(self, chunk: bytes, begin: int, end: int) -> int:
        self._rest += chunk[begin:end]
        if self._key is not None:
            self._key += chunk[begin:end]
        return end

    def _inside_data(self, chunk: bytes, position: int) -> int:
        assert self._data is not None  # noqa: S101 - made when the string began
        if self._escape is not None:
            return self._unescape(self._data, self._escape, chunk, position)
        end = _next_mark(chunk, position)
        self._feed(self._data, chunk[position:end])
        if end < len(chunk):
            if chunk[end] == _BACKSLASH:
                self._escape = bytearray()
            else:
                self._rest.append(_QUOTE)
                self._read = self._outside
        return end + 1

    def _feed(self, data: _Base64, text: bytes) -> None:
        try:
            data.feed(text)
        except ValueError as error:
            self._failure = error

    def _unescape(self, data: _Base64, escape: bytearray, chunk: bytes, position: int) -> int:
        r"""Decode an escape. Base64 needs none, but some encoders write `/` as `\/` and `+` as `\u002B`."""
        escape.append(chunk[position])
        if escape[:1] != b"u":
            # An invalid escape stays as it is, and is no base64.
            self._feed(data, _ESCAPES.get(bytes(escape), b"\\"))
        elif len(escape) < _UNICODE_ESCAPE:
            return position + 1
        else:
            self._feed(data, _character(escape[1:]))
        self._escape = None
        return position + 1


class _Base64:
    """A strict base64 decoder for text in slices; it raises `ValueError` for anything else."""

    def __init__(self) -> None:
        # `BytesIO.getvalue` returns its buffer without a copy.
        self._decoded = BytesIO()
        self._remainder = b""
        self._is_padded = False

    def feed(self, text: bytes) -> None:
        if not text:
            return
        if self._is_padded:
            raise binascii.Error("text after the padding")
        text = self._remainder + text if self._remainder else text
        whole = len(text) - len(text) % 4
        self._remainder = text[whole:]
        self._decoded.write(binascii.a2b_base64(memoryview(text)[:whole], strict_mode=True))
        self._is_padded = whole > 0 and text[whole - 1] == _PADDING
        if self._is_padded and self._remainder:
            raise binascii.Error("text after the padding")

    def finish(self) -> bytes:
        if self._remainder:
            raise binascii.Error("the text ends within a group of four")
        return self._decoded.getvalue()


def _next_mark(chunk: bytes, position: int) -> int:
    """Return the position of the next quote or backslash, or the end of the chunk."""
    quote = chunk.find(b'"', position)
    end = len(chunk) if quote < 0 else quote
    backslash = chunk.find(b"\\", position, end)
    return end if backslash < 0 else backslash


def _character(digits: bytearray) -> bytes:
    """Return the ASCII character of four hexadecimal digits, or a byte that is no base64 for anything else."""
    try:
        return bytes.fromhex(digits.decode("ascii")).removeprefix(b"\0") or b"\0"
    except ValueError:
        return b"\0"
