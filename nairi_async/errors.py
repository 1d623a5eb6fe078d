"""Everything that this library raises: one tree under `NairiError`.

    NairiError
    ├── ConfigurationError           invalid settings for a session or policy (also a ValueError)
    ├── InvalidArgumentError         invalid argument; nothing was sent (also a ValueError)
    ├── SessionClosedError           used before it was opened, after it was closed, or in another event loop
    ├── ConnectionFailedError        no connection, or it broke; `sent` says whether the request may have left
    ├── RequestTimeoutError          one request took too long (also a TimeoutError)
    ├── StatusError                  the service responded with an error
    │   ├── BadRequestError          400
    │   │   └── NotAnApiJobError     400 "job is not an API job"
    │   ├── AuthenticationError      401
    │   ├── PermissionDeniedError    403
    │   ├── NotFoundError            404
    │   │   └── AgentNotFoundError   404 for an agent; lists similar names
    │   ├── ConflictError            409
    │   ├── RateLimitedError         429
    │   └── ServerError              5xx
    ├── AttachmentExistsError        a file of that name exists (also a FileExistsError)
    ├── DecodeError                  the response is not JSON, not of the documented shape, or too large
    ├── OutcomeUnknownError          a prompt was sent, and whether it runs is unknown
    │   ├── InteractionUnknownError  … because a streamed reply broke off
    │   ├── ServerOutcomeError       … because the response was a 5xx (also a ServerError)
    │   └── UnreadableOutcomeError   … because the response was unreadable (also a DecodeError)
    ├── JournalError                 a session cannot use the file of its keys; the recorded turns are kept
    ├── LedgerError                  a batch cannot use its ledger or its output; the recorded entries are kept
    │   ├── OtherPromptsError        the ledger was begun with other prompts
    │   └── UnknownBatchError        the database of a cluster has no batch of that name
    ├── InteractionVoidError         an interaction failed, and the service saved nothing
    ├── ReplyFormatError             a reply has no JSON value of the required type (also a ValueError)
    ├── TurnFailedError              the agent's turn ended as `failed`
    ├── AlreadyAskedError            a chat's prompt was accepted before; it does not run again
    ├── ChatBusyError                too many prompts of a chat are waiting
    ├── TooManyStreamsError          a web application has reached its limit of open event streams
    ├── StoreError                   a bot's records of its chats cannot be read or written
    └── WatchTimeoutError            a turn did not end within the given time (also a TimeoutError)

Every error survives `pickle` and `copy`. None contains the API key. If a call fails after it has started a turn,
`error.turn` is that turn, and it can be watched again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nairi_async._core.error_fields import error_with_fields, field

if TYPE_CHECKING:
    from nairi_async.models import Message, Turn

__all__ = [
    "AgentNotFoundError",
    "AlreadyAskedError",
    "AttachmentExistsError",
    "AuthenticationError",
    "BadRequestError",
    "ChatBusyError",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
    "DecodeError",
    "InteractionUnknownError",
    "InteractionVoidError",
    "InvalidArgumentError",
    "JournalError",
    "LedgerError",
    "NairiError",
    "NotAnApiJobError",
    "NotFoundError",
    "OtherPromptsError",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "RateLimitedError",
    "ReplyFormatError",
    "RequestTimeoutError",
    "ServerError",
    "ServerOutcomeError",
    "SessionClosedError",
    "StatusError",
    "StoreError",
    "TooManyStreamsError",
    "TurnFailedError",
    "UnknownBatchError",
    "UnreadableOutcomeError",
    "WatchTimeoutError",
]


class NairiError(Exception):
    """The root of the tree: catch it to catch everything that this library raises."""

    message: str
    """What went wrong, in words."""
    turn: Turn | None = None
    """The turn that the failed call started or awaited, if any; it can be watched again."""
    conversation_id: str | None = None
    """Id of the failed call's Amigo conversation, if it is known."""

    def __str__(self) -> str:
        return self.message


@error_with_fields
class _PlainError(NairiError):
    message: str


class ConfigurationError(_PlainError, ValueError):
    """The settings of a session or a policy are invalid."""


class InvalidArgumentError(_PlainError, ValueError):
    """An argument is invalid; nothing was sent."""


class SessionClosedError(_PlainError):
    """A session, batch, store or stream was used before it was opened, after it was closed, or in another loop."""


@error_with_fields
class _RequestError(NairiError):
    """What all failures of one request have in common."""

    message: str
    method: str = ""
    """HTTP method of the request."""
    path: str = ""
    """Path of the request below the base URL, without the query."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}: {self.message}" if self.path else self.message


@error_with_fields
class ConnectionFailedError(_RequestError):
    """No connection could be made, or it broke before the whole response arrived."""

    sent: bool = False
    """Whether any part of the body (or of the request, if it has no body) may have reached the service."""
    is_permanent: bool = False
    """Whether a retry cannot help, because the certificate is not accepted or settings contradict each other."""
    hint: str = ""
    """What to do about it; empty if there is no advice."""

    def __str__(self) -> str:
        return "; ".join(filter(None, (super().__str__(), self.hint)))


@error_with_fields
class RequestTimeoutError(_RequestError, TimeoutError):
    """One request, including its response body, took longer than the session's `request_timeout`."""

    sent: bool = False
    """Whether any part of the body (or of the request, if it has no body) may have reached the service."""


@error_with_fields
class StatusError(NairiError):
    """The service responded with a status other than success."""

    status: int
    """HTTP status code."""
    message: str
    """The service's own text if it was sent in the documented form, otherwise the beginning of the body."""
    retry_after: float | None = None
    """Seconds to wait before the next request, from `Retry-After`."""
    method: str = ""
    """HTTP method of the request."""
    path: str = ""
    """Path of the request below the base URL, without the query."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}: {self.status} {self.message}".lstrip(" :")


class BadRequestError(StatusError):
    """400: the service refused the input."""


class NotAnApiJobError(BadRequestError):
    """400 `job is not an API job`: only conversations started through this API can be continued."""


@error_with_fields
class AuthenticationError(StatusError):
    """401: the API key is missing, wrong or revoked."""

    hint: str = ""
    """What to check, and the service that refused the key."""

    def __str__(self) -> str:
        return "; ".join(filter(None, (super().__str__(), self.hint)))


class PermissionDeniedError(StatusError):
    """403: not documented by the service; a firewall in front of it may send it."""


class NotFoundError(StatusError):
    """404: the key's organisation has no such object."""


@error_with_fields
class AgentNotFoundError(NotFoundError):
    """404 for an agent: the organisation has no agent with that slug or id. No prompt was run."""

    agent_id: str = ""
    """The requested slug or id."""
    close_names: tuple[str, ...] = ()
    """Slugs of agents with similar names, closest first; empty if there are none or they could not be listed."""

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}; did you mean {', '.join(self.close_names)}?" if self.close_names else text


class AttachmentExistsError(_PlainError, FileExistsError):
    """An attachment was not saved, because a file of that name exists."""


class ConflictError(StatusError):
    """409: the conversation is finished, or another of its calls is still running at the service. Nothing was run."""


class RateLimitedError(StatusError):
    """429: not documented by the service; the request was refused and not run.

    `Retry-After` holds back the session's other calls too: after a refused start only the starts at that agent, until
    another call is refused as well.
    """


class ServerError(StatusError):
    """5xx: the service, or a proxy in front of it, failed."""


@error_with_fields
class DecodeError(_RequestError):
    """The response is not JSON, not of the documented shape, or larger than the limit."""

    excerpt: str = ""
    """The beginning of the unreadable body."""

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}; the body begins {self.excerpt!r}" if self.excerpt else text


@error_with_fields
class OutcomeUnknownError(_RequestError):
    """A prompt was sent and no readable response arrived: it may or may not be running.

    The library does not send it again, because it could run twice. `__cause__` says what happened: the connection
    broke, the request timed out, or a gateway responded with 408 or 425, which it also does for a slow response. With
    `on_unknown="reconcile"`, the calls that send prompts look the turn up.
    """

    candidates: tuple[Turn, ...] = field(default=(), init=False)
    """After a lookup in which several turns matched: those turns. Any of them may be the prompt's."""


@error_with_fields
class ServerOutcomeError(OutcomeUnknownError, ServerError):
    """The response to a prompt was a 5xx, which does not say whether it runs."""

    message: str
    status: int = 500
    retry_after: float | None = None
    method: str = ""
    path: str = ""

    def __str__(self) -> str:
        return StatusError.__str__(self)


@error_with_fields
class UnreadableOutcomeError(OutcomeUnknownError, DecodeError):
    """The response to a prompt was a success whose body does not name the turn."""


@error_with_fields
class _FileError(NairiError):
    message: str
    file: str = ""
    """Path of the file."""

    def __str__(self) -> str:
        return f"{self.file}: {self.message}" if self.file else self.message


class LedgerError(_FileError):
    """The ledger of a batch, or the file of its replies, cannot be used or written.

    The batch sends nothing more, and the ledger keeps its entries. Run the batch again once the cause is fixed.
    """


class JournalError(_FileError):
    """The journal of a session, which holds its durable keys, cannot be used or written; recorded turns are kept.

    The prompt of the failed call may run: call again with its key once the cause is fixed, and it is looked up.
    """


class OtherPromptsError(LedgerError):
    """The batch's ledger was begun with other prompts. Nothing was sent."""


class UnknownBatchError(LedgerError):
    """The database of a cluster has no batch of that name: it was never submitted, or was deleted."""


class InteractionUnknownError(OutcomeUnknownError):
    """A streamed reply broke off before the service said how the interaction ended: it may or may not be saved.

    The `settle` of the stream or its conversation looks it up. It is not sent again. `__cause__` says what broke.
    """


@error_with_fields
class InteractionVoidError(NairiError):
    """The service reported an error and saved nothing of the interaction; the message can be sent again."""

    message: str
    """The service's description."""
    status: int | None = None
    """The HTTP-like status that the service gave; `None` if it gave none."""

    def __str__(self) -> str:
        return f"the interaction is void: {self.message}" + (f" ({self.status})" if self.status is not None else "")


@error_with_fields
class ReplyFormatError(NairiError, ValueError):
    """A reply contains no JSON value, several, or one that does not fit the required type."""

    message: str
    reply: Any = field(default=None, repr=False)
    """The `Reply`."""


@error_with_fields
class TurnFailedError(NairiError):
    """The agent's turn ended as `failed`."""

    message: str
    """Text of the turn's last system message, in which the service explains failures."""
    turn: Turn | None = None
    """The turn that failed."""
    messages: tuple[Message, ...] = ()
    """The turn's known messages, without progress messages, oldest first."""


@error_with_fields
class WatchTimeoutError(NairiError, TimeoutError):
    """The turn or conversation did not end within `timeout=`. It continues at the service.

    If `status` is `completed`, the turn has ended, and only the list of its conversation's messages is older than that
    for half a minute by now, or to the end of the `timeout=`. Then `reply(error.turn)` reads it again.
    """

    message: str
    turn: Turn | None = None
    """The awaited turn; `None` if a whole conversation was watched."""
    status: str | None = None
    """The last known status of the turn's user message; `None` if none was read."""
    cursor: str | None = None
    """Id of the last delivered message; pass it as `after=` to continue after it."""


@error_with_fields
class AlreadyAskedError(NairiError):
    """A prompt with that key was accepted before, by this process or an earlier one; it does not run again.

    Its reply is in the chat's dialogue. If it is still the chat's last prompt, Nairi's `await
    session.resume(error.dialogue_id).last_reply()` waits for its turn and returns that reply.
    """

    message: str
    dialogue_id: str | None = None
    """The service's id of the chat's dialogue; `None` if it is unknown or the dialogue has ended."""


class ChatBusyError(_PlainError):
    """Too many prompts of the chat are waiting; this one was not accepted."""


class TooManyStreamsError(_PlainError):
    """The web application has reached its limit of open event streams; this one was not opened."""


class StoreError(_PlainError):
    """A bot's records of its chats could not be read or written; the prompt was not sent."""
