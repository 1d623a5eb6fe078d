"""Where the service lives: the base URL, checked once (design section 2)."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from nairi_async._core import checks
from nairi_async.errors import ConfigurationError

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_VISIBLE: Final = re.compile(rb"[\x21-\x7e]+")


def base_url(given: object, *, prefix: str) -> str:
    """The URL that every path is appended to, without a slash at its end.

    `prefix` is the service's own path, such as `/api/public/v1`; it is added unless it is there already. Plain http is
    refused unless the host is this machine, because the key travels with each request.
    """
    if not isinstance(given, str) or not given.strip():
        raise ConfigurationError("the base URL is blank")
    try:
        parts = urlsplit(given.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        # Not chained: the text of the cause may hold a part of a password.
        raise ConfigurationError("the base URL is not a URL") from None
    _check(parts, host)
    assert host is not None  # noqa: S101 - checked by _check; this tells the type checker
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port in {None, _DEFAULT_PORTS[parts.scheme]} else f"{shown}:{port}"
    path = parts.path.rstrip("/")
    if not path.endswith(prefix):
        path += prefix
    return f"{parts.scheme}://{authority}{quote(path, safe='/%:@')}"


def _check(parts: SplitResult, host: str | None) -> None:
    if parts.scheme not in _DEFAULT_PORTS:
        raise ConfigurationError("the base URL begins with https:// (or http:// for this machine)")
    if not host or not _is_host(host) or any(character.isspace() for character in parts.netloc):
        raise ConfigurationError("the base URL names no host")
    if parts.username is not None or parts.password is not None:
        # The text of the URL is not repeated: a password would be in it.
        raise ConfigurationError("the base URL holds a user name or password; give the key as api_key")
    if parts.query or parts.fragment:
        raise ConfigurationError("the base URL has a query or fragment")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ConfigurationError(f"plain http to {host} would send the key in the clear; use https")


def _is_host(host: str) -> bool:
    """Whether a resolver can be asked for it: no control characters, no empty or overlong label."""
    try:
        return ":" in host or _VISIBLE.fullmatch(host.encode("idna")) is not None
    except UnicodeError:
        return False


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def path(*segments: str) -> str:
    """A path below the base URL; each segment is encoded whole, so no id can reach another path.

    Raises:
        InvalidArgumentError: a segment that is no id.
    """
    return "/".join(("", *(quote(checks.identifier("an id", segment), safe="") for segment in segments)))
