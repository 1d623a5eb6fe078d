"""The proxy of a session: given, or from the environment, checked once, and with its password never shown."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from nairi_async._core.address import is_loopback
from nairi_async._core.api_key import redacted
from nairi_async._core.concealed import Concealed
from nairi_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCHEMES: Final = frozenset({"http", "https"})


class Proxy:
    """A proxy. Its user name and password are in no repr, and in no URL that the HTTP library sees."""

    __slots__ = ("_authorization", "_password", "url")

    def __init__(self, url: str, user: str | None, password: str | None) -> None:
        self.url: str = url
        """The URL, without user name and password."""
        self._password = password or ""
        self._authorization = ""
        if user is not None or password is not None:
            pair = f"{user or ''}:{password or ''}".encode()
            self._authorization = f"Basic {base64.b64encode(pair).decode()}"

    def headers(self) -> Mapping[str, str]:
        """Return the headers that authorise requests to the proxy."""
        return {"Proxy-Authorization": self._authorization} if self._authorization else {}

    def redact(self, text: str) -> str:
        """Return a text without the password, as it is and as it is sent."""
        for secret in (self._authorization.removeprefix("Basic "), self._password):
            if secret:
                text = redacted(text, secret)
        return text

    def __repr__(self) -> str:
        return f"<Proxy {self.url}>"


class ProxySetting(Concealed):
    """What was given as `proxy=`. `find` raises, from a frame in which the password is in no local variable."""

    __slots__ = ()

    @property
    def is_given(self) -> bool:
        """Whether there is one."""
        return self.value is not None

    def find(self, *, trust_env: object, base_url: str) -> Proxy | None:
        """Return the proxy for a base URL: the one given, else, with `trust_env`, the environment's; `None` for none.

        The environment's are `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, and the settings of Windows and
        macOS. A service on this machine that speaks plain HTTP is reached directly, unless the proxy is here as well.

        Raises:
            ConfigurationError: it cannot be used. The text shows no user name or password.
        """
        if not isinstance(trust_env, bool):
            raise ConfigurationError(f"trust_env must be True or False, not {type(trust_env).__name__}")
        found: Proxy | str | None
        if self.is_given:
            found, name = _parse(self.value), "proxy"
        elif trust_env:
            found, name = _of_environment(base_url), "the proxy of the environment"
        else:
            return None
        if isinstance(found, str):
            raise ConfigurationError(f"{name} {found}")
        return found


def _of_environment(base_url: str) -> Proxy | str | None:
    parts = urlsplit(base_url)
    proxies = getproxies()
    address = proxies.get(parts.scheme) or proxies.get("all")
    if not address or proxy_bypass(parts.netloc):
        return None
    found = _parse(address if "://" in address else f"http://{address}")
    if parts.scheme == "http" and isinstance(found, Proxy) and not is_loopback(urlsplit(found.url).hostname or ""):
        # A service on this machine, without TLS: through a proxy elsewhere the key would leave the machine unencrypted.
        return None
    return found


def _parse(given: object) -> Proxy | str:
    """Return a proxy, or what is wrong with it."""
    if not isinstance(given, str):
        return f"must be a URL, not {type(given).__name__}"
    try:
        parts = urlsplit(given.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in _SCHEMES:
        return "must begin with http:// or https://; for other proxies give http= a session that supports them"
    if not host:
        return "names no host"
    shown = f"[{host}]" if ":" in host else host
    user, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
    return Proxy(f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else ""), user, password)
