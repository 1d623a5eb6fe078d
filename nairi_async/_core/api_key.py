"""The API key, kept where no repr, log, pickle or traceback shows it (design section 2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

from nairi_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nairi_async._core.executor import RequestExecutor

# What may stand in a header after "Bearer ": visible ASCII. No white space, so no second header can be smuggled in.
_SENDABLE = re.compile(r"[\x21-\x7e]+")


class ApiKey:
    """A secret that can be sent, and not read by accident.

    The constructor only stores; `check` raises, from a frame in which the secret is not a local variable.
    """

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def check(self, missing: str) -> None:
        """Refuse a key that cannot be sent; `missing` is what to say when there is none."""
        if self._value is None or self._value == "":
            raise ConfigurationError(missing)
        if not isinstance(self._value, str):
            raise ConfigurationError(f"the API key is a string, not {type(self._value).__name__}")
        if not _SENDABLE.fullmatch(self._value):
            raise ConfigurationError("the API key is blank or holds white space, control or non-ASCII characters")

    @property
    def credential_version(self) -> int:
        """A key is never replaced."""
        return 0

    async def prepare(self, _executor: RequestExecutor, /) -> None:
        """Nothing has to be done."""

    def refused(self, _generation: int, /) -> bool:
        """There is no other."""
        return False

    def headers(self) -> Mapping[str, str]:
        """The authorisation of a request (api: basics)."""
        return {"Authorization": f"Bearer {self._value}"}

    def redact(self, text: str, /) -> str:
        """A text without the key: a proxy that repeats what it was sent must not make an error show it."""
        return text.replace(str(self._value), "***")

    def __repr__(self) -> str:
        return "<ApiKey: not shown>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key is not pickled")
