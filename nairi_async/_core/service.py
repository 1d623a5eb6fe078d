"""What the neutral core has to know about a service, so that errors can be typed and can say what to do next."""

from __future__ import annotations

from collections.abc import Callable

from nairi_async._core.records import frozen
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
    routes: tuple[str, ...] = ()
    """Templates of all paths that sessions request, such as `/messages/{message_id}`; the first that matches counts."""

    def route(self, path: str) -> str:
        """Return the template of a path; `/{unknown}` if none matches."""
        segments = path.rstrip("/").split("/")
        for route in self.routes:
            template = route.rstrip("/").split("/")
            if len(template) == len(segments) and all(
                expected.startswith("{") or expected == segment
                for expected, segment in zip(template, segments, strict=True)
            ):
                return route
        return "/{unknown}"
