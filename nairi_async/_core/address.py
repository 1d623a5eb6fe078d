"""Where a service is: the base URL, checked once, and the paths below it."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, quote, urlsplit

from nairi_async._core import checks
from nairi_async.errors import ConfigurationError

if TYPE_CHECKING:
    from nairi_async._core.concealed import Concealed

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_VISIBLE: Final = re.compile(rb"[\x21-\x7e]+")
# The beginning of a base URL without `https://`. Anything else may be a key in the wrong place, and is not shown.
_BARE_HOST: Final = re.compile(r"(?:[A-Za-z0-9-]{1,30}\.)+[A-Za-z]{2,20}|localhost")

# A path of ids as the services make them, which are sent as they are.
_PLAIN_PATH: Final = re.compile(r"(?:/[A-Za-z0-9_-]+)+")


def base_url(given: Concealed, *, prefix: str) -> str:
    """Check a base URL, and return it in the form that paths are appended to, without a slash at its end.

    `prefix` is the service's own path, such as `/api/public/v1`; it is added unless it is there already. Plain http is
    refused unless the host is this machine, because each request carries the key.

    Raises:
        ConfigurationError: it cannot be used. Neither the text nor a local variable has user name, password, or query.
    """
    url, problem = _read(given.value, prefix)
    if problem:
        raise ConfigurationError(problem)
    return url


def _read(given: object, prefix: str) -> tuple[str, str]:
    """Return a base URL and no problem, or what is wrong with it. It does not raise: its frame has the password."""
    if not isinstance(given, str) or not given.strip():
        return "", "the base URL is blank"
    try:
        parts = urlsplit(given.strip())
        host, port, path = parts.hostname, parts.port, quote(parts.path.rstrip("/"), safe="/%:@")
    except ValueError:
        return "", "the base URL is not a URL"
    if problem := _problem(parts, host, given.strip()):
        return "", problem
    shown = f"[{host}]" if host and ":" in host else host
    authority = shown if port in {None, _DEFAULT_PORTS[parts.scheme]} else f"{shown}:{port}"
    return f"{parts.scheme}://{authority}{path}{'' if path.endswith(prefix) else prefix}", ""


def _problem(parts: SplitResult, host: str | None, given: str) -> str:
    if parts.scheme not in _DEFAULT_PORTS:
        return f"the base URL must begin with https:// (or http:// for this machine), got {_beginning(given)}"
    if not host or not _is_host(host) or any(character.isspace() for character in parts.netloc):
        return "the base URL names no host"
    if parts.username is not None or parts.password is not None:
        # The URL is not quoted: a password would be in it.
        return "the base URL holds a user name or password; give the key as api_key"
    if parts.query or parts.fragment:
        return "the base URL has a query or fragment"
    if parts.scheme == "http" and not is_loopback(host):
        return f"plain http to {host} would send the key unencrypted; use https"
    return ""


def _beginning(given: str) -> str:
    """Return as much of a bad URL as can be shown: its scheme, or the host that it begins with."""
    scheme, separator, _ = given.partition("://")
    if separator and scheme.isascii() and scheme.isalnum():
        return f"{scheme[:20]}://"
    host = _BARE_HOST.match(given)
    return repr(host[0]) if host is not None and "@" not in given else "a text without a scheme"


def _is_host(host: str) -> bool:
    """Return whether a resolver can be asked for it: no control characters, no empty or overlong label."""
    try:
        return ":" in host or _VISIBLE.fullmatch(host.encode("idna")) is not None
    except UnicodeError:
        return False


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine by definition."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_and_port(base_url: str) -> tuple[str, int]:
    """Return host and port of a base URL."""
    parts = urlsplit(base_url)
    return parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


def path(*segments: str) -> str:
    """Return a path below the base URL. Each segment is encoded whole, so no id can reach another path.

    Raises:
        InvalidArgumentError: a segment cannot be an id.
    """
    plain = "/" + "/".join(segments)
    # Nearly all ids are ASCII letters, digits and underscores. Checking and encoding each takes ten times as long.
    if plain.isascii() and all(map(str.isidentifier, segments)):
        return plain
    # One look at the whole: checking and encoding each segment takes four times as long. A slash may stand in none.
    if _PLAIN_PATH.fullmatch(plain) and plain.count("/") == len(segments):
        return plain
    return "".join(["/" + quote(checks.identifier("an id", segment), safe="") for segment in segments])
