"""The endpoints of conversations and attachments, and the table of all endpoints."""

from __future__ import annotations

import base64
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast, get_args

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from attrs import frozen

from nairi_async.clock import Clock
from nairi_async.testing.jobs import JobStatus
from nairi_async.testing.json_bodies import RefusedError, flag, json_response, read_object, required_text, texts
from nairi_async.testing.quirks import quirks_in_effect
from nairi_async.testing.routes_agents import AgentRoutes
from nairi_async.testing.standing_clock import StandingClock
from nairi_async.testing.state import NairiState, RecordedPrompt
from nairi_async.testing.timeline import TERMINAL
from nairi_async.testing.views import SORTS, ListingQuery, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

BASE_PATH = "/api/public/v1"

_LARGEST_FILE = 50 * 1024 * 1024
_CHUNK = 256 * 1024
_LARGEST_PAGE = 100
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@frozen
class ConversationRoutes:
    """Start, continue, read and list conversations."""

    state: NairiState
    clock: Clock
    standing: StandingClock

    def table(self) -> list[web.RouteDef]:
        """Return the endpoints, without the base path."""
        return [
            web.post("/conversations/start", self.start),
            web.post("/conversations/{job_id}/continue", self.continue_),
            web.get("/conversations/{job_id}/messages", self.messages, allow_head=False),
            web.get("/messages/{message_id}", self.message, allow_head=False),
            web.get("/agents/{agent_id:.+}/conversations", self.conversations, allow_head=False),
        ]

    async def start(self, request: web.Request) -> web.Response:
        """Create a job."""
        body = await read_object(request)
        recorded = self.state.start(
            required_text(body, "agent_id"),
            required_text(body, "prompt"),
            self.clock.time(),
            attachment_ids=texts(body, "attachment_ids"),
            ask_mode=flag(body, "ask_mode"),
        )
        return self._accepted(recorded, self.state.quirks.start_code)

    async def continue_(self, request: web.Request) -> web.Response:
        """Add a turn to a job."""
        job = self.state.continuable(request.match_info["job_id"])
        body = await read_object(request)
        prompt, attachment_ids = required_text(body, "prompt"), texts(body, "attachment_ids")
        recorded = self.state.continue_(job.id, prompt, self.clock.time(), attachment_ids=attachment_ids)
        return self._accepted(recorded, 201)

    async def messages(self, request: web.Request) -> web.Response:
        """Return all of a job's messages."""
        job = self.state.find_job(request.match_info["job_id"])
        view = _view()
        shown = view.messages(job, self._read_time(view))
        self._refuse_other_clocks(request, shown)
        return json_response(view.extended({"messages": shown}))

    async def message(self, request: web.Request) -> web.Response:
        """Return one message."""
        entry = self.state.find_message(request.match_info["message_id"])
        view = _view()
        shown = view.message(entry, self.state.jobs[entry.job_id], self._read_time(view))
        self._refuse_other_clocks(request, [shown])
        return json_response(shown)

    async def conversations(self, request: web.Request) -> web.Response:
        """Return a page of an agent's jobs."""
        if not self.state.quirks.listing:
            raise RefusedError(404, "not found")
        agent = self.state.find_agent(request.match_info["agent_id"])
        query = _query(request.query)
        jobs = (job for job in self.state.jobs.values() if job.agent is agent)
        view = _view()
        return json_response(view.extended({"conversations": view.conversations(jobs, query, self._read_time(view))}))

    def _refuse_other_clocks(self, request: web.Request, shown: Iterable[Mapping[str, Any]]) -> None:
        is_unfinished = any(one["role"] == "user" and one["status"] not in TERMINAL for one in shown)
        self.standing.observe(request.rel_url.raw_path, is_unfinished=is_unfinished)

    def _read_time(self, view: View) -> float:
        return self.state.as_of(self.clock.time(), view.quirks)

    def _accepted(self, recorded: RecordedPrompt, status: int) -> web.Response:
        return json_response(_view().extended({"job_id": recorded.job_id, "message_id": recorded.message_id}), status)


@frozen
class AttachmentRoutes:
    """Upload and fetch files."""

    state: NairiState
    clock: Clock

    def table(self) -> list[web.RouteDef]:
        """Return the endpoints, without the base path."""
        return [
            web.post("/attachments", self.upload),
            web.get("/attachments/{attachment_id}", self.attachment, allow_head=False),
        ]

    async def upload(self, request: web.Request) -> web.Response:
        """Store a file."""
        try:
            filename, data = await _file_part(request)
        except (ValueError, AssertionError, RuntimeError, HttpProcessingError):
            raise RefusedError(400, "invalid multipart form") from None
        attachment_id = self.state.store(filename, data, self.clock.time())
        return json_response(self._extended({"attachment_id": attachment_id}), 201)

    async def attachment(self, request: web.Request) -> web.Response:
        """Return a file."""
        attachment_id = request.match_info["attachment_id"]
        file = self.state.find_file(attachment_id)
        data = base64.b64encode(file.data).decode("ascii")
        return json_response(self._extended({"id": attachment_id, "filename": file.filename, "data": data}))

    def _extended(self, shown: dict[str, Any]) -> dict[str, Any]:
        return View(self.state.quirks).extended(shown)


def application_routes(state: NairiState, clock: Clock) -> list[web.RouteDef]:
    """Return all endpoints, under the base path of the API."""
    families = (
        ConversationRoutes(state, clock, StandingClock(clock)),
        AttachmentRoutes(state, clock),
        AgentRoutes(state, clock),
    )
    return [
        web.RouteDef(one.method, BASE_PATH + one.path, one.handler, one.kwargs)
        for family in families
        for one in family.table()
    ]


def _view() -> View:
    """Return the view of the state for the request under way."""
    return View(quirks_in_effect.get())


async def _file_part(request: web.Request) -> tuple[str, bytes]:
    """Return name and bytes of the first part that is a file called `file`; other parts are ignored."""
    if request.content_type != "multipart/form-data":
        raise RefusedError(400, "file is required")
    async for part in await request.multipart():
        if isinstance(part, BodyPartReader) and part.name == "file" and part.filename is not None:
            return part.filename, await _read_part(part)
    raise RefusedError(400, "file is required")


async def _read_part(part: BodyPartReader) -> bytes:
    data = bytearray()
    while chunk := await part.read_chunk(_CHUNK):
        data += chunk
        if len(data) > _LARGEST_FILE:
            raise RefusedError(400, "file is larger than 50 MB")
    return bytes(data)


def _query(given: Mapping[str, str]) -> ListingQuery:
    """Check the query of the listing."""
    sort = given.get("sort", "created_at_desc")
    if sort not in SORTS:
        raise RefusedError(400, f"sort must be one of {', '.join(SORTS)}")
    return ListingQuery(
        statuses=_statuses(given["status"]) if "status" in given else (),
        updated_after=_timestamp(given["updated_after"]) if "updated_after" in given else None,
        sort=sort,
        limit=_integer(given.get("limit", "50"), "limit", 1, _LARGEST_PAGE),
        offset=_integer(given.get("offset", "0"), "offset", 0, None),
    )


def _statuses(text: str) -> tuple[JobStatus, ...]:
    words = tuple(text.split(","))
    if not set(words) <= set(get_args(JobStatus)):
        raise RefusedError(400, f"status must be a list of {', '.join(get_args(JobStatus))}")
    return cast("tuple[JobStatus, ...]", words)


def _timestamp(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.upper()) if _TIMESTAMP.fullmatch(text) else _refuse_timestamp()
    except ValueError:
        return _refuse_timestamp()


def _refuse_timestamp() -> datetime:
    raise RefusedError(400, "updated_after must be an RFC 3339 timestamp")


def _integer(text: str, name: str, lowest: int, highest: int | None) -> int:
    digits = re.fullmatch(r"[0-9]{1,18}", text)
    number = int(text) if digits else -1
    if number < lowest or (highest is not None and number > highest):
        raise RefusedError(400, f"{name} must be an integer from {lowest}" + (f" to {highest}" if highest else ""))
    return number
