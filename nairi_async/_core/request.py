"""What passes through the seam to the HTTP library: a request, the state of one call, a response.

Nothing here knows aiohttp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

MAX_BODY: Final = 64 * 1024 * 1024
"""Largest response body that is read, in bytes after decompression: far above a real timeline, far below a machine."""

_T = TypeVar("_T")


class StreamingBody(Protocol):
    """A request body that is produced while it is sent."""

    @property
    def content_type(self) -> str:
        """Its `Content-Type` header."""
        ...

    @property
    def size(self) -> int | None:
        """Its length in bytes; `None` where the length is unknown until the end."""
        ...

    @property
    def is_spent(self) -> bool:
        """Whether it was begun and cannot be produced from the beginning again."""
        ...

    @property
    def failure(self) -> Exception | None:
        """The error that stopped its production at the last attempt, if one did."""
        ...

    def chunks(self) -> AsyncGenerator[bytes]:
        """Produce the whole body in pieces, from the beginning."""
        ...


class ResponseStream(Protocol):
    """A response body that is read as it arrives."""

    async def read(self) -> bytes:
        """Read the next piece; empty at the end. A cancelled call loses nothing, and reading can go on."""
        ...

    def close(self) -> None:
        """Release the connection at once. Harmless when repeated."""
        ...


class Send(Protocol):
    """Sends a request and returns the decoded body of its response; `RequestExecutor.call` is one."""

    def __call__(
        self, request: Request, decode: Callable[[bytes], _T], /, *, unreadable_is_transient: bool = False
    ) -> Awaitable[_T]:
        """Send it; see `RequestExecutor.call`."""
        ...


class Credentials(Protocol):
    """What authorises requests."""

    @property
    def credential_version(self) -> int:
        """A number that changes whenever the credentials are replaced."""
        ...

    def acquire(self, send: Send, /) -> Awaitable[None] | None:
        """Return what must be awaited until valid credentials are there; `None` if they are, as they nearly always are.

        `send` makes the requests that this takes, such as a sign-in.
        """
        ...

    def headers(self) -> Mapping[str, str]:
        """Return the headers that authorise a request."""
        ...

    def invalidate(self, credential_version: int, /) -> bool:
        """Discard the credentials of this version, which the service refused; return whether others can be had."""
        ...

    def redact(self, text: str, /) -> str:
        """Return the text without the secrets."""
        ...


class Sink(Protocol):
    """Takes a response body piece by piece, so that it is not collected in memory."""

    def write(self, chunk: bytes, /) -> bool:
        """Take the next piece; return whether more is wanted."""
        ...


class Request:
    """One request, which may be sent any number of times. What becomes of it at a call stands in a `CallState`.

    It is never shown in parts, because it may hold a prompt.
    """

    __slots__ = (
        "address",
        "body",
        "bucket",
        "busy_statuses",
        "credentials",
        "headers",
        "idempotent",
        "idle_timeout",
        "max_body",
        "method",
        "observe_date",
        "path",
        "query",
        "scope",
        "sink",
        "timeout",
        "unknown_outcome_message",
    )

    # Not keyword-only, although only keywords are used: the interpreter would look up each default in a dictionary.
    def __init__(  # noqa: PLR0917 - see above
        self,
        method: str,
        path: str,
        query: str = "",
        body: bytes | StreamingBody | None = None,
        headers: Mapping[str, str] | None = None,
        credentials: Credentials | None = None,
        idempotent: bool = True,  # noqa: FBT001, FBT002 - see above
        unknown_outcome_message: str = "the request was sent, and whether it was carried out is not known",
        busy_statuses: frozenset[int] = frozenset(),
        bucket: str | None = None,
        scope: str | None = None,
        observe_date: bool = False,  # noqa: FBT001, FBT002 - see above
        timeout: float | None = None,
        idle_timeout: float | None = None,
        max_body: int = MAX_BODY,
        sink: Callable[[], Sink] | None = None,
    ) -> None:
        self.method: str = method
        """HTTP method."""
        self.path: str = path
        """Encoded path below the base URL; it is shown in errors and logs."""
        self.query: str = query
        """Encoded query, without the question mark."""
        self.body: bytes | StreamingBody | None = body
        """JSON, or a stream."""
        self.headers: Mapping[str, str] | None = headers
        """Headers in addition to those of credentials and body."""
        self.credentials: Credentials | None = credentials
        """What authorises this request, where that is not the session's credentials: a sign-in has its own."""
        self.idempotent: bool = idempotent
        """Whether sending it twice does no harm: false for what starts a turn."""
        self.unknown_outcome_message: str = unknown_outcome_message
        """What an error says when a request that is not idempotent left and no response came back."""
        self.busy_statuses: frozenset[int] = busy_statuses
        """Statuses in addition to 429 by which this service refuses for the moment, without having run anything."""
        self.bucket: str | None = bucket
        """The rate limit that it counts against, where the service has several; otherwise the session's own."""
        self.scope: str | None = scope
        """What a 429 slows down at first, where that is not the whole session: a prompt that starts names its agent."""
        self.observe_date: bool = observe_date
        """Whether the response's `Date` header is read, to learn the time of the service's clock."""
        self.timeout: float | None = timeout
        """Seconds that one attempt may take, where that is not the session's `request_timeout`."""
        self.idle_timeout: float | None = idle_timeout
        """For a response that is read as it arrives: the seconds without data after which it counts as broken."""
        self.max_body: int = max_body
        """Largest response body that is read, in bytes."""
        self.sink: Callable[[], Sink] | None = sink
        """Makes what takes the body of a success at each attempt; `Response.body` is then empty."""
        self.address: Any = None
        """The transport's own form of the URL, cached so that a request polled for an hour is parsed once."""

    @property
    def is_spent(self) -> bool:
        """Whether it cannot be sent again, because its body was a stream that has been used up."""
        return self.body is not None and not isinstance(self.body, bytes) and self.body.is_spent


class CallState:
    """What has become of a request at one call.

    The executor and the transport write it while they work, so a caller that was cancelled can still read it.
    """

    __slots__ = ("answered_at", "credential_version", "started_at", "write_started")

    def __init__(self) -> None:
        self.write_started: bool = False
        """Whether the last attempt gave any part of the request to a connection: if not, the service never ran it."""
        self.credential_version: int = 0
        """Version of the credentials that the last attempt carried."""
        self.started_at: float | None = None
        """When the first attempt left, by the session's monotonic clock; waits in front of it do not count."""
        self.answered_at: float | None = None
        """When the last response came, by the session's monotonic clock."""


class Response:
    """A response of any status. It is never shown in parts, because body and headers may hold secrets."""

    __slots__ = ("body", "headers", "status", "stream")

    def __init__(
        self, status: int, headers: Mapping[str, str], body: bytes, stream: ResponseStream | None = None
    ) -> None:
        self.status = status
        """HTTP status."""
        self.headers = headers
        """Headers, case-insensitive; a proxy may repeat secrets in them."""
        self.body = body
        """The body, decompressed."""
        self.stream = stream
        """The body of a success, where the request asked to read it as it arrives."""


def is_success(status: int) -> bool:
    """Return whether a status is of the class that RFC 9110 calls successful: not all codes are documented."""
    return 200 <= status < 300  # noqa: PLR2004 - that class
