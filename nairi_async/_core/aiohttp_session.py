"""The aiohttp session that requests are sent with: nothing that this library does itself is done again by aiohttp."""

from __future__ import annotations

from functools import partial
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import hdrs
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDict
from yarl import URL

if TYPE_CHECKING:
    from ssl import SSLContext

    from aiohttp.connector import Connection
    from aiohttp.typedefs import LooseHeaders

# The longest header that is accepted, in bytes. aiohttp's own limit is less than some proxies send.
_MAX_HEADER: Final = 64 * 1024

UNBOUNDED: Final = aiohttp.ClientTimeout(total=None, sock_connect=None)
"""The whole attempt is bounded once, by our own clock: aiohttp's limits would add timers to each request."""


def make_session(base_url: str, *, connections: int, tls: SSLContext | None, has_proxy: bool) -> aiohttp.ClientSession:
    """Return a session for requests to one service. Call it on the event loop that will send them."""
    make = partial(
        aiohttp.ClientSession,
        connector=aiohttp.TCPConnector(limit=connections, ssl=tls or True),
        cookie_jar=_NoCookies(),
        max_line_size=_MAX_HEADER,
        max_field_size=_MAX_HEADER,
        timeout=UNBOUNDED,
    )
    if has_proxy:
        # The request to connect can break as well, and has headers of its own.
        return make(middlewares=(_send_once,))
    # The headers that aiohttp would add to each request one by one. The key is not among them: the `repr` of a session
    # shows them.
    headers = {
        hdrs.HOST: URL(base_url).host_port_subcomponent or "",
        **aiohttp.ClientRequest.DEFAULT_HEADERS,
        hdrs.USER_AGENT: SERVER_SOFTWARE,
    }
    return make(headers=headers, request_class=_Request, response_class=_Response)


class _NoCookies(aiohttp.DummyCookieJar):
    """A jar that is always empty, and makes no new object to say so."""

    def __init__(self) -> None:
        super().__init__()
        self._none: SimpleCookie = SimpleCookie()

    def filter_cookies(self, request_url: URL) -> SimpleCookie:  # noqa: ARG002 - aiohttp's signature
        """Return the cookies for an address."""
        return self._none


class _Request(aiohttp.ClientRequest):
    """A request whose headers are those of the call and of the session, and need no others."""

    def update_headers(self, headers: LooseHeaders | None) -> None:
        """Take the headers as they are: the session merged them for this request."""
        self.headers = headers if isinstance(headers, CIMultiDict) else CIMultiDict(headers or ())

    def update_auto_headers(self, skip_auto_headers: object) -> None:
        """Add nothing: the session has those that aiohttp would add."""


class _BrokenError(aiohttp.ClientError):
    """A broken connection, under a name after which aiohttp does not send the request again by itself.

    One attempt is one request: the retry policy decides how often to try, and how long to wait in between.
    """


class _Response(aiohttp.ClientResponse):
    """A response that may not come."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Wait for its headers."""
        try:
            return await super().start(connection)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise _broken(error) from error


async def _send_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Make one attempt one request, the connection to the proxy included."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _broken(error) from error


def _broken(error: Exception) -> _BrokenError:
    return _BrokenError(str(error) or type(error).__name__)
