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
from nairi_async.testing.answers import answer, flag, read_object, required_text, texts
from nairi_async.testing.jobs import JobStatus
from nairi_async.testing.quirks import quirks_met
from nairi_async.testing.refused import RefusedError
from nairi_async.testing.routes_agents import AgentRoutes
from nairi_async.testing.views import SORTS, Query, View
from nairi_async.testing.world import Asked, World

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE_PATH = "/api/public/v1"

_LARGEST_FILE = 50 * 1024 * 1024
_CHUNK = 256 * 1024
_LARGEST_PAGE = 100
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@frozen
class ConversationRoutes:
    """Start, continue, read and list conversations."""

    world: World
    clock: Clock

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
        """Make a job."""
        body = await read_object(request)
        asked = self.world.start(
            required_text(body, "agent_id"),
            required_text(body, "prompt"),
            self.clock.time(),
            attachment_ids=texts(body, "attachment_ids"),
            ask_mode=flag(body, "ask_mode"),
        )
        return self._asked(asked, self.world.quirks.start_code)

    async def continue_(self, request: web.Request) -> web.Response:
        """Add a turn to a job."""
        job = self.world.continuable(request.match_info["job_id"])
        body = await read_object(request)
        prompt, attachment_ids = required_text(body, "prompt"), texts(body, "attachment_ids")
        asked = self.world.continue_(job.id, prompt, self.clock.time(), attachment_ids=attachment_ids)
        return self._asked(asked, 201)

    async def messages(self, request: web.Request) -> web.Response:
        """Return all of a job's messages."""
        job = self.world.find_job(request.match_info["job_id"])
        view = _view()
        return answer(view.odd({"messages": view.messages(job, self._read_time(view))}))

    async def message(self, request: web.Request) -> web.Response:
        """Return one message."""
        entry = self.world.find_message(request.match_info["message_id"])
        view = _view()
        return answer(view.message(entry, self.world.jobs[entry.job_id], self._read_time(view)))

    async def conversations(self, request: web.Request) -> web.Response:
        """Return a page of the jobs of an agent."""
        if not self.world.quirks.listing:
            raise RefusedError(404, "not found")
        agent = self.world.find_agent(request.match_info["agent_id"])
        query = _query(request.query)
        jobs = (job for job in self.world.jobs.values() if job.agent is agent)
        view = _view()
        return answer(view.odd({"conversations": view.conversations(jobs, query, self._read_time(view))}))

    def _read_time(self, view: View) -> float:
        return self.world.as_of(self.clock.time(), view.quirks)

    def _asked(self, asked: Asked, status: int) -> web.Response:
        return answer(_view().odd({"job_id": asked.job_id, "message_id": asked.message_id}), status)


@frozen
class AttachmentRoutes:
    """Upload and fetch files."""

    world: World
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
        attachment_id = self.world.store(filename, data, self.clock.time())
        return answer(self._odd({"attachment_id": attachment_id}), 201)

    async def attachment(self, request: web.Request) -> web.Response:
        """Return a file."""
        attachment_id = request.match_info["attachment_id"]
        file = self.world.find_file(attachment_id)
        data = base64.b64encode(file.data).decode("ascii")
        return answer(self._odd({"id": attachment_id, "filename": file.filename, "data": data}))

    def _odd(self, shown: dict[str, Any]) -> dict[str, Any]:
        return View(self.world.quirks).odd(shown)


def application_routes(world: World, clock: Clock) -> list[web.RouteDef]:
    """Return all endpoints, under the path of the public API."""
    families = (ConversationRoutes(world, clock), AttachmentRoutes(world, clock), AgentRoutes(world, clock))
    return [
        web.RouteDef(one.method, BASE_PATH + one.path, one.handler, one.kwargs)
        for family in families
        for one in family.table()
    ]


def _view() -> View:
    """The world as this request sees it."""
    return View(quirks_met.get())


async def _file_part(request: web.Request) -> tuple[str, bytes]:
    """Return name and bytes of the first part that is a file called `file`; other parts are ignored."""
    if request.content_type != "multipart/form-data":
        raise RefusedError(400, "file is required")
    async for part in await request.multipart():
        if isinstance(part, BodyPartReader) and part.name == "file" and part.filename is not None:
            return part.filename, await _bounded(part)
    raise RefusedError(400, "file is required")


async def _bounded(part: BodyPartReader) -> bytes:
    data = bytearray()
    while chunk := await part.read_chunk(_CHUNK):
        data += chunk
        if len(data) > _LARGEST_FILE:
            raise RefusedError(400, "file is larger than 50 MB")
    return bytes(data)


def _query(given: Mapping[str, str]) -> Query:
    """Check the query of the listing."""
    sort = given.get("sort", "created_at_desc")
    if sort not in SORTS:
        raise RefusedError(400, f"sort must be one of {', '.join(SORTS)}")
    return Query(
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
