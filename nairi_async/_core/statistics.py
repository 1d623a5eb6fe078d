"""What a session has done so far: the figures that every service has."""

from __future__ import annotations

from nairi_async._core.exports import publish
from nairi_async._core.records import frozen


@frozen(kw_only=True)
class RequestStats:
    """The requests of a session so far; `print` shows them in two lines."""

    requests: int
    """Requests sent; each attempt counts."""
    retries: int
    """Those among them that repeated a failed one."""
    bytes_received: int
    """Bytes of all response bodies, decompressed."""
    open_connections: int
    """Requests and open streams that hold a connection right now."""
    free_connections: int
    """Further requests that could start right now, as far as `max_connections` allows."""
    waiting_calls: int
    """Calls that wait for a connection or a rate limit right now."""

    def __str__(self) -> str:
        return "\n".join((self._requests_line(), f"now       {self._now()}"))

    def _requests_line(self) -> str:
        return f"requests  {self.requests:,} ({self.retries:,} retries), {readable_size(self.bytes_received)} received"

    def _now(self) -> str:
        return f"{self.open_connections:,} connections in use, {self.waiting_calls:,} calls waiting"


def readable_size(count: int) -> str:
    """Return a number of bytes in the largest unit that fits, such as `1.5 MB`."""
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:  # noqa: PLR2004 - decimal units
            break
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}" if unit != "bytes" else f"{count} bytes"


publish(__name__)
