"""What the neutral core has to know of Nairi."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nairi_async._core.failures import error_class
from nairi_async._core.json_body import decode_error
from nairi_async._core.service import Service
from nairi_async.errors import BadRequestError, NotAnApiJobError

if TYPE_CHECKING:
    from nairi_async.errors import StatusError


def _error_class(status: int, text: str) -> type[StatusError]:
    kind = error_class(status)
    return NotAnApiJobError if kind is BadRequestError and text == "job is not an API job" else kind


SERVICE: Final = Service(
    key_variable="NAIRI_API_KEY",
    url_variable="NAIRI_BASE_URL",
    read_error=decode_error,
    error_class=_error_class,
    routes=(
        "/conversations/start",
        "/conversations/{job_id}/continue",
        "/conversations/{job_id}/messages",
        "/messages/{message_id}",
        "/agents",
        "/agents/{agent_id}",
        "/agents/{agent_id}/conversations",
        "/agents/{agent_id}/deploy",
        "/attachments",
        "/attachments/{attachment_id}",
    ),
)
"""The service of `NairiSession`."""
