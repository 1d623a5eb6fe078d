"""Everything that this library raises: one tree under `NairiError` (design section 4).

    NairiError
    ├── ConfigurationError           the session cannot be built from what was given (also a ValueError)
    ├── InvalidArgumentError         no request could carry this argument; none was sent (also a ValueError)
    ├── SessionClosedError           used before it was opened, after it was closed, or from another event loop
    ├── ConnectionFailedError        no connection, or it broke; `sent` says whether the request had left
    ├── RequestTimeoutError          one request took too long (also a TimeoutError)
    ├── StatusError                  the service answered, and not with success
    │   ├── BadRequestError          400
    │   │   └── NotAnApiJobError     400 "job is not an API job"
    │   ├── AuthenticationError      401
    │   ├── PermissionDeniedError    403
    │   ├── NotFoundError            404
    │   │   └── AgentNotFoundError   404 for an agent; lists names that are close
    │   ├── ConflictError            409
    │   ├── RateLimitedError         429
    │   └── ServerError              5xx
    ├── AttachmentExistsError        a file of that name is there already (also a FileExistsError)
    ├── DecodeError                  the answer is not JSON, not the documented shape, or too large
    ├── OutcomeUnknownError          a prompt left, and nobody can say whether it runs
    │   ├── InteractionUnknownError  … because a streamed reply broke off
    │   ├── ServerOutcomeError       … because the answer was a 5xx (also a ServerError)
    │   └── UnreadableOutcomeError   … because the answer was unreadable (also a DecodeError)
    ├── LedgerError                  a batch cannot use its ledger, or its output; what was recorded is kept
    ├── InteractionVoidError         an interaction failed and was undone by the service
    ├── TurnFailedError              the agent's turn ended as `failed`
    ├── AlreadyAskedError            a chat's prompt was taken on before; it is not run again
    ├── ChatBusyError                too many prompts of a chat wait already
    ├── StoreError                   what a bot keeps of its chats cannot be read or written
    └── WatchTimeoutError            a turn did not end within the given time (also a TimeoutError)

Every error survives `pickle` and `copy`. None holds the API key. Where a call had already started a turn when it
failed, `error.turn` names it, so that the turn can be watched again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

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
    "LedgerError",
    "NairiError",
    "NotAnApiJobError",
    "NotFoundError",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "RateLimitedError",
    "RequestTimeoutError",
    "ServerError",
    "ServerOutcomeError",
    "SessionClosedError",
    "StatusError",
    "StoreError",
    "TurnFailedError",
    "UnreadableOutcomeError",
    "WatchTimeoutError",
]

# attrs builds each class: `auto_exc` keeps the fields in `args`, which is what makes pickle and copy work, and only
# positional fields do. Not slotted, since an exception carries a `__dict__` anyway and several bases must combine.


class NairiError(Exception):
    """The root: catch it to catch everything that this library raises."""

    message: str
    """What went wrong, in words."""
    turn: Turn | None = None
    """The turn that the failed call had already started or was waiting for, if any: it can be watched again."""
    conversation_id: str | None = None
    """The Amigo conversation that the failed call belonged to, where it was known."""

    def __str__(self) -> str:
        return self.message


@define(auto_exc=True, slots=False)
class ConfigurationError(NairiError, ValueError):
    """The session or a policy cannot be built from what was given."""

    message: str


@define(auto_exc=True, slots=False)
class InvalidArgumentError(NairiError, ValueError):
    """An argument that no request could carry, refused before any request was sent."""

    message: str


@define(auto_exc=True, slots=False)
class SessionClosedError(NairiError):
    """The session was used before it was opened, after it was closed, or from another event loop."""

    message: str


@define(auto_exc=True, slots=False)
class _ExchangeError(NairiError):
    """What all failures of one request have in common."""

    message: str
    method: str = ""
    """HTTP method of the request."""
    path: str = ""
    """Path of the request below the base URL, without the query."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}: {self.message}" if self.path else self.message


@define(auto_exc=True, slots=False)
class ConnectionFailedError(_ExchangeError):
    """No connection could be made, or it broke before the whole answer was there."""

    sent: bool = False
    """Whether any of the request's body (for a GET: the request) may have reached the service."""
    is_lasting: bool = False
    """Whether trying again cannot help: a certificate that is not accepted, settings that contradict each other."""
    hint: str = ""
    """What to do about it, where something can be done."""

    def __str__(self) -> str:
        return _with_hint(super().__str__(), self.hint)


@define(auto_exc=True, slots=False)
class RequestTimeoutError(_ExchangeError, TimeoutError):
    """One request, its body included, took longer than the session's `request_timeout`."""

    sent: bool = False
    """Whether any of the request's body (for a GET: the request) may have reached the service."""


@define(auto_exc=True, slots=False)
class StatusError(NairiError):
    """The service answered with a status that is not success."""

    status: int
    """HTTP status code."""
    message: str
    """The service's own text where it sent `{"error": text}`, else the beginning of the body."""
    retry_after: float | None = None
    """Seconds that the service asked to wait, from `Retry-After`."""
    method: str = ""
    """HTTP method of the request."""
    path: str = ""
    """Path of the request below the base URL, without the query."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}: {self.status} {self.message}".lstrip(" :")


@define(auto_exc=True, slots=False)
class BadRequestError(StatusError):
    """400: the service refuses the input."""


@define(auto_exc=True, slots=False)
class NotAnApiJobError(BadRequestError):
    """400 `job is not an API job`: only conversations started through this API can be continued."""


@define(auto_exc=True, slots=False)
class AuthenticationError(StatusError):
    """401: the API key is missing, wrong or revoked."""

    hint: str = ""
    """What to check, and which service was asked."""

    def __str__(self) -> str:
        return _with_hint(super().__str__(), self.hint)


@define(auto_exc=True, slots=False)
class PermissionDeniedError(StatusError):
    """403: not documented by the service; a firewall in front of it may answer so."""


@define(auto_exc=True, slots=False)
class NotFoundError(StatusError):
    """404: no such thing in the organisation that the key belongs to."""


@define(auto_exc=True, slots=False)
class AgentNotFoundError(NotFoundError):
    """404 for an agent: the organisation has none of that slug or id. No prompt was run."""

    agent_id: str = ""
    """What was asked for."""
    close_names: tuple[str, ...] = ()
    """Slugs of agents with similar names, closest first; empty where none is, or they could not be listed."""

    def __str__(self) -> str:
        told = super().__str__()
        return f"{told}; did you mean {', '.join(self.close_names)}?" if self.close_names else told


@define(auto_exc=True, slots=False)
class AttachmentExistsError(NairiError, FileExistsError):
    """An attachment was not saved, because something of its name is there already."""

    message: str


@define(auto_exc=True, slots=False)
class ConflictError(StatusError):
    """409: the conversation is finished, or another call of it still runs at the service. Nothing was run."""


@define(auto_exc=True, slots=False)
class RateLimitedError(StatusError):
    """429: not documented by the service; the request was refused and did not run."""


@define(auto_exc=True, slots=False)
class ServerError(StatusError):
    """5xx: the service, or a proxy in front of it, failed."""


@define(auto_exc=True, slots=False)
class DecodeError(_ExchangeError):
    """The answer is not JSON, not of the documented shape, or larger than the limit."""

    excerpt: str = ""
    """The beginning of the body that could not be read."""

    def __str__(self) -> str:
        told = super().__str__()
        return f"{told}; the body begins {self.excerpt!r}" if self.excerpt else told


@define(auto_exc=True, slots=False)
class OutcomeUnknownError(_ExchangeError):
    """A prompt was sent and its answer did not come back: it may or may not be running.

    Sending it again could run it twice, so the library does not. The cause (`__cause__`) says what happened.
    """

    candidates: tuple[Turn, ...] = field(default=(), init=False)
    """Where it was looked up: turns any of which may be the one that was sent, and that cannot be told apart."""


@define(auto_exc=True, slots=False)
class ServerOutcomeError(OutcomeUnknownError, ServerError):
    """A prompt was answered with a 5xx that does not say whether it runs."""

    message: str
    status: int = 500
    retry_after: float | None = None
    method: str = ""
    path: str = ""

    def __str__(self) -> str:
        return StatusError.__str__(self)


@define(auto_exc=True, slots=False)
class UnreadableOutcomeError(OutcomeUnknownError, DecodeError):
    """A prompt was answered with success, but in a body that does not say what was started."""


@define(auto_exc=True, slots=False)
class LedgerError(NairiError):
    """The ledger of a batch, or the file of its replies, cannot be used or written any more.

    Nothing more is asked from then on, and what the ledger holds stays: run the batch again when the reason is mended.
    """

    message: str
    file: str = ""
    """The path of the ledger or the output."""

    def __str__(self) -> str:
        return f"{self.file}: {self.message}" if self.file else self.message


@define(auto_exc=True, slots=False)
class InteractionUnknownError(OutcomeUnknownError):
    """A streamed reply broke off before the service said how the interaction ended: it may or may not be saved.

    The stream's `settle`, or that of its conversation, looks. It is not sent again. The cause says what broke.
    """


@define(auto_exc=True, slots=False)
class InteractionVoidError(NairiError):
    """The service reported an error before the interaction was complete: it kept nothing, so it may be sent again."""

    message: str
    """The service's description."""
    status: int | None = None
    """The HTTP-like code that the service gave; `None` where it gave none."""

    def __str__(self) -> str:
        return f"the interaction is void: {self.message}" + (f" ({self.status})" if self.status is not None else "")


@define(auto_exc=True, slots=False)
class TurnFailedError(NairiError):
    """The agent's turn ended as `failed`."""

    message: str
    """Text of the turn's last system message; the service explains failures there."""
    turn: Turn | None = None
    """The turn that failed."""
    messages: tuple[Message, ...] = ()
    """The turn's non-progress messages that were seen, oldest first."""


@define(auto_exc=True, slots=False)
class WatchTimeoutError(NairiError, TimeoutError):
    """The wait given as `timeout=` is over and the turn, or conversation, has not ended. Nothing was stopped."""

    message: str
    turn: Turn | None = None
    """The turn that was waited for; `None` where a whole conversation was watched."""
    status: str | None = None
    """The last status seen of the turn's user message; `None` if none was read."""
    cursor: str | None = None
    """Id of the last message handed over; give it as `after=` to go on from there."""


@define(auto_exc=True, slots=False)
class AlreadyAskedError(NairiError):
    """A prompt of that key was taken on before, by this process or one that has ended; it is not run again.

    Its answer stands in the chat's dialogue. Where nothing was asked after it, Nairi's `await
    session.resume(error.dialogue_id).last_reply()` is that answer, and waits while the turn runs.
    """

    message: str
    dialogue_id: str | None = None
    """The service's id of the chat's dialogue, `None` where it is not known, or has ended."""


@define(auto_exc=True, slots=False)
class ChatBusyError(NairiError):
    """Too many prompts of a chat wait for their turn already; this one was not taken on."""

    message: str


@define(auto_exc=True, slots=False)
class StoreError(NairiError):
    """What a bot keeps of its chats could not be read or written; the prompt was not sent."""

    message: str


def _with_hint(text: str, hint: str) -> str:
    return f"{text}; {hint}" if hint else text
