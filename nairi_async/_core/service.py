"""What the neutral core has to know about a service, so that errors can be typed and can say what to do next."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from nairi_async.errors import StatusError


@frozen(kw_only=True)
class Service:
    """One of the services that sessions speak to. Each hands its own to `ServiceSession`."""

    key_variable: str
    """Environment variable of the API key."""
    url_variable: str
    """Environment variable of the base URL."""
    read_error: Callable[[bytes], str]
    """Finds the text of an error response from its body."""
    error_class: Callable[[int, str], type[StatusError]]
    """Picks the class of the error for a status and the text of its response."""
