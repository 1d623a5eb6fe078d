"""From a response or a failed attempt to the error that the caller sees: plain functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from nairi_async._core.retry import is_refusal, parse_date, parse_retry_after
from nairi_async.errors import (
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ConnectionFailedError,
    DecodeError,
    NairiError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    ServerOutcomeError,
    StatusError,
    UnreadableOutcomeError,
)

if TYPE_CHECKING:
    from nairi_async._core.request import Request, Response
    from nairi_async._core.service import Service

_SERVER_ERRORS: Final = range(500, 600)
_REDIRECTS: Final = range(300, 400)
# Gateways send these for a slow response too, after they have forwarded the request. 303 points to the result of a
# request that was carried out.
_AMBIGUOUS: Final = frozenset({303, 408, 425, 499})
_BY_STATUS: Final[dict[int, type[StatusError]]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitedError,
}


def drop_frames(error: BaseException, *kept: BaseException | None) -> None:
    """Take the frames out of the tracebacks of an error and of its causes.

    The HTTP library keeps the headers of a request in local variables, and crash reporters send those of every frame.
    Exceptions of the caller's own (`kept`) and what led to them stay as they are.
    """
    pending: list[BaseException | None] = [error]
    done = {id(one) for one in kept}
    while pending:
        link = pending.pop()
        if link is not None and id(link) not in done:
            done.add(id(link))
            link.__traceback__ = None
            pending += [link.__cause__, link.__context__]
            if isinstance(link, BaseExceptionGroup):
                pending += link.exceptions


def error_class(status: int, _text: str = "") -> type[StatusError]:
    """Return the class of the error for a status, as HTTP defines the status."""
    return _BY_STATUS.get(status, ServerError if status in _SERVER_ERRORS else StatusError)


def status_error(
    service: Service, base_url: str, request: Request, response: Response, text: str, *, now: float
) -> StatusError:
    """Return the typed error of a response that is not a success; `text` is what the service said.

    A `Retry-After` date is compared with the clock that wrote it, the response's own `Date`; where there is none, with
    `now`, the session's Unix time.
    """
    kind = service.error_class(response.status, text)
    if response.status in _REDIRECTS:
        text = "the service redirects, which is not followed, because the key would go along; correct the base URL"
    date = parse_date(response.headers.get("Date"))
    retry_after = parse_retry_after(response.headers.get("Retry-After"), now if date is None else date)
    error = kind(response.status, text or "no text", retry_after, request.method, request.path)
    if isinstance(error, AuthenticationError):
        error.hint = f"check the API key (api_key= or {service.key_variable}); {base_url} was asked"
    return error


def raise_final(request: Request, error: NairiError) -> NoReturn:
    """Raise the failure of a call as it is or, for a request that may have run and must not run twice, as unknown."""
    if request.idempotent or is_refusal(error, request.busy_statuses):
        raise error
    where = (request.method, request.path)
    unknown = request.unknown_outcome_message
    if isinstance(error, ServerError):
        raise ServerOutcomeError(
            message=f"{error.message} ({unknown})",
            status=error.status,
            retry_after=error.retry_after,
            method=error.method,
            path=error.path,
        ) from error
    if isinstance(error, DecodeError):
        raise UnreadableOutcomeError(f"{error.message} ({unknown})", *where, excerpt=error.excerpt) from error
    if isinstance(error, StatusError) and error.status in _AMBIGUOUS:
        raise OutcomeUnknownError(f"{error.status} {error.message} ({unknown})", *where) from error
    if isinstance(error, ConnectionFailedError | RequestTimeoutError) and error.sent:
        raise OutcomeUnknownError(f"{error.message} ({unknown})", *where) from error
    raise error
