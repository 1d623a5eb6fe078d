"""What aiohttp's errors mean: the reason in words, whether anything was sent, whether trying again can help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import http_exceptions
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

if TYPE_CHECKING:
    from nairi_async._core.service import Service

_REASONS: Final[dict[type[BaseException], str]] = {
    http_exceptions.LineTooLong: "a header of the response is too long",
    http_exceptions.ContentEncodingError: "the content encoding of the response cannot be decoded",
    http_exceptions.TransferEncodingError: "the transfer encoding of the response is broken",
    http_exceptions.ContentLengthError: "the response ended before its announced length",
}
# A proxy that wants other credentials, or does not connect to this host, will say so again.
_LOGIN_REQUIRED: Final = 407
_PROXY_REFUSALS: Final = frozenset({401, 403, 407})


class Failure:
    """What is known of a failed attempt. No repr shows it: it may quote the other side, which may repeat the key."""

    __slots__ = ("hint", "is_permanent", "is_unsent", "reason")

    def __init__(self, reason: str, *, is_unsent: bool = False, is_permanent: bool = False, hint: str = "") -> None:
        self.reason = reason
        """What happened."""
        self.is_unsent = is_unsent
        """Whether it is certain that no part of the request left."""
        self.is_permanent = is_permanent
        """Whether trying again cannot help."""
        self.hint = hint
        """What to do about it; empty if there is no advice."""


def explain(error: Exception, service: Service, base_url: str, proxy_url: str | None) -> Failure:
    """Return what an error of aiohttp means."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return _explain_no_connection(error, service, base_url, proxy_url)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        hint = "are the user name and password of the proxy right?" if error.status == _LOGIN_REQUIRED else ""
        reason = f"the proxy refused to connect: {error.status} {error.message}"
        return Failure(reason, is_unsent=True, is_permanent=error.status in _PROXY_REFUSALS, hint=hint)
    if isinstance(error, aiohttp.ClientResponseError):
        cause: BaseException | None = error
        while cause is not None and type(cause) not in _REASONS:
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            return Failure("the response is not HTTP")
        return Failure(_REASONS[type(cause)], is_permanent=isinstance(cause, http_exceptions.LineTooLong))
    text = str(error) or type(error).__name__
    if not isinstance(error, ValueError):
        return Failure(text)
    hint = ""
    if "AUTHORIZATION" in text:
        # aiohttp found a password for the host, and does not send it together with the key.
        text = "~/.netrc, or the aiohttp session given as http=, has a password for this host"
        hint = (
            "make that session without trust_env=True and auth=; this session has a trust_env= that reads no ~/.netrc"
        )
    # Settings of a lent session that contradict ours.
    return Failure(text, is_unsent=True, is_permanent=True, hint=hint)


def _explain_no_connection(
    error: aiohttp.ClientConnectorError, service: Service, base_url: str, proxy_url: str | None
) -> Failure:
    text, url = str(error), URL(base_url)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        hint = "if its certificate is signed by an authority of your own, name it in SSL_CERT_FILE or give ssl="
        return Failure(text, is_unsent=True, is_permanent=True, hint=hint)
    # The name of a proxy that is not found is an error as that of a host is.
    if isinstance(error, aiohttp.ClientProxyConnectionError) or error.host not in {url.raw_host, url.host}:
        hint = f"is the proxy right? {proxy_url} was asked" if proxy_url is not None else "is the proxy right?"
        return Failure(text, is_unsent=True, hint=hint)
    return Failure(text, is_unsent=True, hint=f"is {service.url_variable} right? {base_url} was asked")


def hide_headers(error: BaseException) -> None:
    """Remove headers, and so the key, from an aiohttp error that will be the cause of ours.

    Its fields hold those of the request. Its message and its own cause quote what the service sent, which may repeat
    them.
    """
    if isinstance(error, aiohttp.ClientResponseError):
        hidden = error.request_info._replace(headers=CIMultiDictProxy(CIMultiDict()))
        error.request_info = hidden
        error.args = (hidden, ())
        error.message = "see the error that it caused"
        error.headers = None
        error.__cause__ = error.__context__ = None
