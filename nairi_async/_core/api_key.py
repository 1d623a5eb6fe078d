"""The API key, held so that no repr, log, pickle or traceback shows it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from multidict import CIMultiDict, CIMultiDictProxy, istr

from nairi_async._core.concealed import Concealed
from nairi_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from nairi_async._core.request import Send

# What may follow "Bearer " in a header: visible ASCII. White space could smuggle in a second header.
_SENDABLE = re.compile(r"[\x21-\x7e]+")
# Characters of a secret from which on its beginning is worth hiding.
_TELLING = 8
_AUTHORIZATION: Final = istr("Authorization")


def redacted(text: str, secret: str) -> str:
    """Return a text without a secret, and without the beginning of one at its end: the text may have been cut."""
    text = text.replace(secret, "***")
    for length in range(min(len(secret) - 1, len(text)), _TELLING - 1, -1):
        if text.endswith(secret[:length]):
            return text[:-length] + "***"
    return text


class ApiKey(Concealed):
    """A secret that can be sent, and not read by accident.

    The constructor only stores it. `check` raises, from a frame in which the secret is not a local variable.
    """

    __slots__ = ("_headers", "credential_version")

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self._headers: CIMultiDictProxy[str] | None = None
        self.credential_version: int = 0
        """Always 0: a key is never replaced."""

    def check(self, missing: str) -> None:
        """Raise `ConfigurationError` for a key that cannot be sent; `missing` is its text where there is none."""
        if self.value is None or self.value == "":
            raise ConfigurationError(missing)
        if not isinstance(self.value, str):
            raise ConfigurationError(f"the API key must be a string, not {type(self.value).__name__}")
        if not _SENDABLE.fullmatch(self.value):
            raise ConfigurationError(
                "the API key is blank or holds white space, control or non-ASCII characters; copy it anew"
            )

    def acquire(self, _send: Send, /) -> Awaitable[None] | None:
        """Return that nothing must be awaited: the key is there."""
        return None

    def invalidate(self, _credential_version: int, /) -> bool:
        """Return that there is no other key."""
        return False

    def headers(self) -> Mapping[str, str]:
        """Return the header that authorises a request."""
        if self._headers is None:
            # Made once, in the form that aiohttp would make of a dictionary for each request.
            self._headers = CIMultiDictProxy(CIMultiDict({_AUTHORIZATION: f"Bearer {self.value}"}))
        return self._headers

    def redact(self, text: str, /) -> str:
        """Return the text without the key: a proxy may send back what it received, and errors quote it."""
        return redacted(text, str(self.value))
