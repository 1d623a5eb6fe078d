"""The JSON objects that reads return, with the quirks applied."""

from __future__ import annotations

import math
from datetime import datetime
from random import Random
from typing import TYPE_CHECKING, Any
from zlib import crc32

from attrs import frozen

from nairi_async.testing.ids import instant, stamp
from nairi_async.testing.jobs import JobStatus
from nairi_async.testing.json_bodies import RefusedError
from nairi_async.testing.quirks import Quirks
from nairi_async.testing.timeline import TERMINAL, MessageVersion, ScriptedMessage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nairi_async.testing.jobs import Agent, Job

# Seconds by which rounding to milliseconds may move a time up.
_ROUNDING = 1e-5

SORTS = ("created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc")


@frozen(kw_only=True)
class ListingQuery:
    """Which jobs of an agent a listing returns."""

    statuses: tuple[JobStatus, ...] = ()
    """Jobs with any of these statuses; empty is all."""
    updated_after: datetime | None = None
    sort: str = "created_at_desc"
    limit: int = 50
    offset: int = 0


@frozen
class View:
    """Shows the state of the service as its quirks allow."""

    quirks: Quirks

    def message(self, message: ScriptedMessage, job: Job, now: float) -> dict[str, Any]:
        """Return one message; refuse with 404 one that has not appeared yet."""
        if self.quirks.only_user_messages_by_id and message.role != "user":
            raise RefusedError(404, "message not found")
        version = self._version(message, now)
        if version is None and message.role == "user":
            version = message.versions[0]
        if version is None:
            raise RefusedError(404, "message not found")
        return self._message(message, version, job, now)

    def messages(self, job: Job, now: float) -> list[dict[str, Any]]:
        """Return the messages of a job that the list shows at `now`."""
        as_of = now - self.quirks.list_lag
        shown = [
            self._message(message, version, job, as_of)
            for message in job.messages
            if self._is_kept(message, as_of)
            and not self._is_late(message, as_of)
            and (version := self._version(message, as_of)) is not None
        ]
        if self.quirks.order == "newest first":
            shown.reverse()
        elif self.quirks.order == "shuffled":
            Random(self.quirks.order_seed).shuffle(shown)
        every = self.quirks.repeat_every
        return shown + (shown[every - 1 :: every] if every else [])

    def conversations(self, jobs: Iterable[Job], query: ListingQuery, now: float) -> list[dict[str, Any]]:
        """Return one page of jobs, each with `id`, `status` and `updated_at`."""
        moves, skew, after = self.quirks.updated_at_moves, self.quirks.clock_skew, query.updated_after
        # Most jobs moved long ago: comparing numbers first spares a date for each of them.
        earliest = -math.inf if after is None else after.timestamp() - skew - _ROUNDING
        recent = (job for job in jobs if job.last_updated(moves) > earliest and job.created <= now)
        rows = [(job, job.updated(now, moves) + skew) for job in recent]
        if after is not None:
            rows = [(job, updated) for job, updated in rows if instant(updated) > after]
        chosen = [row for row in rows if not query.statuses or row[0].status(now) in query.statuses]
        if query.sort.startswith("updated_at"):
            chosen.sort(key=lambda row: row[1])
        if query.sort.endswith("desc"):
            chosen.reverse()
        page = chosen[query.offset : query.offset + query.limit]
        return [self.extended({"id": job.id, "status": job.status(now), "updated_at": stamp(at)}) for job, at in page]

    def agent(self, agent: Agent) -> dict[str, Any]:
        """Return one agent."""
        skew = self.quirks.clock_skew
        return self.extended(
            {
                "id": agent.id,
                "name": agent.name,
                "agent_id": agent.agent_id,
                "instances_count": agent.instances or 1,
                "description": agent.description,
                "is_self_hosted": False,
                "system_prompt": agent.system_prompt,
                "created_at": stamp(agent.created + skew),
                "updated_at": stamp(agent.updated + skew),
            }
        )

    def extended(self, shown: dict[str, Any]) -> dict[str, Any]:
        """Return an object of a response, with undocumented fields if the quirks add them."""
        return {**shown, "x_unknown": {"nested": [1, None]}, "x_note": "new"} if self.quirks.unknown_fields else shown

    def _version(self, message: ScriptedMessage, now: float) -> MessageVersion | None:
        lags = message.role == "user" and self.quirks.status_lag > 0
        return (message.ending_later(self.quirks.status_lag) if lags else message).version(now)

    def _is_kept(self, message: ScriptedMessage, now: float) -> bool:
        return message.role != "progress" or now - message.created <= self.quirks.progress_kept_for

    def _is_late(self, message: ScriptedMessage, now: float) -> bool:
        if message.role == "user" or now >= message.created + self.quirks.late_by:
            return False
        return crc32(message.id.encode()) % self.quirks.late_every == 0

    def _status(self, message: ScriptedMessage, version: MessageVersion, now: float) -> str:
        quirks = self.quirks
        if message.role == "progress":
            return quirks.progress_status
        young = now < message.created + quirks.first_status_for
        if quirks.first_status is not None and message.role == "user" and young and version.status not in TERMINAL:
            return quirks.first_status
        return version.status

    def _message(self, message: ScriptedMessage, version: MessageVersion, job: Job, now: float) -> dict[str, Any]:
        shown = {
            "id": message.id,
            "job_id": message.job_id,
            "content": version.content,
            "role": message.role,
            "status": self._status(message, version, now),
            **message.fields,
        }
        if self.quirks.timestamps != "omitted":
            times = (message.created, version.at) if self.quirks.timestamps == "kept" else (job.created, job.created)
            shown["created_at"], shown["updated_at"] = (stamp(at + self.quirks.clock_skew) for at in times)
        return self.extended(shown)
