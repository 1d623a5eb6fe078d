"""What a read shows: objects of the wire as the quirks of the day make them."""

from __future__ import annotations

from datetime import datetime
from random import Random
from typing import TYPE_CHECKING, Any
from zlib import crc32

from attrs import frozen

from nairi_async.testing.ids import instant, stamp
from nairi_async.testing.jobs import JobStatus
from nairi_async.testing.quirks import Quirks
from nairi_async.testing.refused import RefusedError
from nairi_async.testing.timeline import TERMINAL, Entry, Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nairi_async.testing.jobs import Agent, Job

SORTS = ("created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc")


@frozen(kw_only=True)
class Query:
    """Which jobs of an agent are asked for."""

    statuses: tuple[JobStatus, ...] = ()
    """Any of these; none given is all."""
    updated_after: datetime | None = None
    sort: str = "created_at_desc"
    limit: int = 50
    offset: int = 0


@frozen
class View:
    """The world under its quirks."""

    quirks: Quirks

    def message(self, entry: Entry, job: Job, now: float) -> dict[str, Any]:
        """Return one message; refuse with 404 one that is not there yet."""
        if self.quirks.only_user_messages_by_id and entry.role != "user":
            raise RefusedError(404, "message not found")
        phase = self._phase(entry, now)
        if phase is None and entry.role == "user":
            phase = entry.phases[0]
        if phase is None:
            raise RefusedError(404, "message not found")
        return self._message(entry, phase, job, now)

    def messages(self, job: Job, now: float) -> list[dict[str, Any]]:
        """Return the messages of a job that the list shows at `now`."""
        seen = now - self.quirks.list_lag
        shown = [
            self._message(entry, phase, job, seen)
            for entry in job.entries
            if self._kept(entry, seen)
            and not self._is_late(entry, seen)
            and (phase := self._phase(entry, seen)) is not None
        ]
        if self.quirks.order == "newest first":
            shown.reverse()
        elif self.quirks.order == "shuffled":
            Random(self.quirks.order_seed).shuffle(shown)
        every = self.quirks.repeat_every
        return shown + (shown[every - 1 :: every] if every else [])

    def conversations(self, jobs: Iterable[Job], query: Query, now: float) -> list[dict[str, Any]]:
        """Return one page of jobs, as `id`, `status` and `updated_at`."""
        moves, skew = self.quirks.updated_at_moves, self.quirks.clock_skew
        rows = [(job, job.updated(now, moves) + skew) for job in jobs if job.created <= now]
        chosen = [
            (job, updated)
            for job, updated in rows
            if (not query.statuses or job.status(now) in query.statuses)
            and (query.updated_after is None or instant(updated) > query.updated_after)
        ]
        if query.sort.startswith("updated_at"):
            chosen.sort(key=lambda row: row[1])
        if query.sort.endswith("desc"):
            chosen.reverse()
        page = chosen[query.offset : query.offset + query.limit]
        return [self.odd({"id": job.id, "status": job.status(now), "updated_at": stamp(at)}) for job, at in page]

    def agent(self, agent: Agent) -> dict[str, Any]:
        """Return one agent."""
        skew = self.quirks.clock_skew
        return self.odd(
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

    def odd(self, shown: dict[str, Any]) -> dict[str, Any]:
        """Return an object of an answer, with fields that no document knows if such are wanted."""
        return {**shown, "x_unknown": {"nested": [1, None]}, "x_note": "new"} if self.quirks.unknown_fields else shown

    def _phase(self, entry: Entry, now: float) -> Phase | None:
        lags = entry.role == "user" and self.quirks.status_lag > 0
        return (entry.ending_later(self.quirks.status_lag) if lags else entry).phase(now)

    def _kept(self, entry: Entry, now: float) -> bool:
        return entry.role != "progress" or now - entry.created <= self.quirks.progress_kept_for

    def _is_late(self, entry: Entry, now: float) -> bool:
        if entry.role == "user" or now >= entry.created + self.quirks.late_by:
            return False
        return crc32(entry.id.encode()) % self.quirks.late_every == 0

    def _status(self, entry: Entry, phase: Phase, now: float) -> str:
        quirks = self.quirks
        if entry.role == "progress":
            return quirks.progress_status
        young = now < entry.created + quirks.first_status_for
        if quirks.first_status is not None and entry.role == "user" and young and phase.status not in TERMINAL:
            return quirks.first_status
        return phase.status

    def _message(self, entry: Entry, phase: Phase, job: Job, now: float) -> dict[str, Any]:
        shown = {
            "id": entry.id,
            "job_id": entry.job_id,
            "content": phase.content,
            "role": entry.role,
            "status": self._status(entry, phase, now),
            **entry.fields,
        }
        if self.quirks.timestamps != "omitted":
            times = (entry.created, phase.at) if self.quirks.timestamps == "kept" else (job.created, job.created)
            shown["created_at"], shown["updated_at"] = (stamp(at + self.quirks.clock_skew) for at in times)
        return self.odd(shown)
