"""What passes through the seam: a request on its way, and an answer. Nothing here knows aiohttp."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import define, field, frozen

if TYPE_CHECKING:
    from nairi_async._core.executor import RequestExecutor

MAX_BODY: Final = 64 * 1024 * 1024
"""Largest answer that is read, in bytes after decompression: far above a real timeline, far below a machine."""


class StreamingBody(Protocol):
    """A body that is produced while it is sent."""

    @property
    def content_type(self) -> str:
        """The header of that name."""
        ...

    @property
    def size(self) -> int | None:
        """Bytes in all; `None` where nobody knows before the end."""
        ...

    @property
    def is_spent(self) -> bool:
        """Whether it was begun and cannot be produced from the beginning again."""
        ...

    @property
    def failure(self) -> Exception | None:
        """Why it could not be produced to its end at the last attempt, if that was why."""
        ...

    def chunks(self) -> AsyncGenerator[bytes]:
        """All of it, in pieces, from the beginning."""
        ...


class ResponseStream(Protocol):
    """The body of an answer that is read as it comes."""

    async def read(self) -> bytes:
        """The next piece; none at the end. After a cancellation nothing is lost, and reading can go on."""
        ...

    def close(self) -> None:
        """Let go of the connection at once. Harmless when repeated."""
        ...


class Credentials(Protocol):
    """What lets a request in, and how to keep it out of texts."""

    @property
    def credential_version(self) -> int:
        """Which ones these are: another number after they were replaced."""
        ...

    async def prepare(self, executor: RequestExecutor, /) -> None:
        """Do what must be done before a request can carry them, such as signing in."""
        ...

    def headers(self) -> Mapping[str, str]:
        """The headers that authorise a request."""
        ...

    def refused(self, credential_version: int, /) -> bool:
        """The service did not accept those of this generation; returns whether others can be had."""
        ...

    def redact(self, text: str, /) -> str:
        """A text without the secret."""
        ...


class Sink(Protocol):
    """What takes an answer piece by piece instead of having it gathered."""

    def write(self, chunk: bytes, /) -> bool:
        """Take the next piece; returns whether more is wanted."""
        ...


@define(kw_only=True, eq=False)
class Request:
    """One request. It may be sent several times; only `write_started` and the cached address change."""

    method: str
    """HTTP method."""
    path: str
    """Encoded path below the base URL; it stands in errors and logs."""
    query: str = field(default="", repr=False)
    """Encoded query, without the question mark."""
    body: bytes | StreamingBody | None = field(default=None, repr=False)
    """JSON, or a stream; prompts are the caller's business and are never shown."""
    idempotent: bool = True
    """Whether running it twice does no harm: false for what starts a turn."""
    max_body: int = MAX_BODY
    """Largest answer that is read, in bytes."""
    sink: Callable[[], Sink] | None = field(default=None, repr=False)
    """Makes what takes a successful answer at each attempt; the answer's own body is then empty."""
    timeout: float | None = None
    """Seconds that one attempt may take, where that is not the session's `request_timeout`."""
    doubt: str = "the prompt was sent, and whether it runs is not known"
    """What to say when a request that is not repeatable left and its answer did not come back."""
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    """Headers besides those of credentials and body."""
    credentials: Credentials | None = field(default=None, repr=False)
    """What lets this request in, where that is not what lets the session in: a request that signs in."""
    bucket: str | None = None
    """The rate limit that it falls under, where the service has several; else the session's own."""
    idle_timeout: float | None = None
    """For an answer that is read as it comes: seconds without any of it after which it has broken off."""
    busy_statuses: frozenset[int] = frozenset()
    """Statuses besides 429 with which this service refuses for the moment, without having run anything."""
    write_started: bool = field(default=False, init=False)
    """Whether, at the last attempt, any of it was given to a connection: if not, it provably never ran."""
    credential_version: int = field(default=0, init=False)
    """Which credentials the last attempt carried."""
    started_at: float | None = field(default=None, init=False)
    """When the first attempt of the call under way left, by the session's monotonic clock: waits before it are free."""
    observe_date: bool = False
    """Whether the answer's `Date` is worth reading: it tells the service's time."""
    answered_at: float | None = field(default=None, init=False)
    """When the last answer came, by the session's monotonic clock."""
    address: Any = field(default=None, init=False, repr=False)
    """The seam's own form of the URL, kept so that a request polled for an hour is not parsed each time."""

    @property
    def is_spent(self) -> bool:
        """Whether it cannot be sent again, because its body was a stream that is gone."""
        return self.body is not None and not isinstance(self.body, bytes) and self.body.is_spent


@frozen
class Response:
    """An answer, whatever its status."""

    status: int
    """HTTP status."""
    headers: Mapping[str, str]
    """Headers, case-insensitive."""
    body: bytes = field(repr=False)
    """The body, decompressed; it may hold secrets."""
    stream: ResponseStream | None = None
    """The body of a success, where the request asked to read it as it comes."""

    @property
    def is_success(self) -> bool:
        """2xx: the service's success codes are not all documented, so the whole class counts."""
        return is_success(self.status)


def is_success(status: int) -> bool:
    """Whether a status is of the class that RFC 9110 calls successful."""
    return 200 <= status < 300  # noqa: PLR2004 - that class
