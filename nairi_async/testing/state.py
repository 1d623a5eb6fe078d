"""The state of the simulated service, as a pure function of time.

A prompt fixes at once, from the agent's script and its free capacity, which messages appear when. A read shows what
has appeared by its `now`. Every `now` is in seconds since the epoch.
"""

from __future__ import annotations

import math
import re
from itertools import count
from typing import TYPE_CHECKING, Literal, TypeAlias

from attrs import define, field, frozen

from nairi_async.testing.jobs import Agent, Job
from nairi_async.testing.json_bodies import RefusedError
from nairi_async.testing.script import Script, default_script, steps_of
from nairi_async.testing.timeline import MessageVersion, ScriptedMessage, TurnTimeline, error_notice, play_script

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nairi_async.testing.ids import IdMaker
    from nairi_async.testing.quirks import Quirks

ClosedStatus: TypeAlias = Literal["completed", "error", "abandoned"]

_CLOSING_NOTICES: dict[ClosedStatus, str] = {
    "completed": "Job complete - Thread is inactive",
    "error": error_notice("the job was stopped"),
    "abandoned": "Job abandoned: Remote branch 'nairi/job' was deleted (likely merged). "
    "Please start a new conversation.",
}
_MOST_ATTACHMENTS = 10


@frozen
class RecordedPrompt:
    """A prompt that the service accepted, and so ran."""

    agent_id: str
    """Slug of the agent."""
    job_id: str
    """The conversation."""
    message_id: str
    """Its user message."""
    prompt: str
    """The text."""
    attachment_ids: tuple[str, ...]
    """The files attached to it."""
    at: float
    """When it was accepted, in seconds since the epoch."""
    ask_mode: bool = False
    """Whether the agent was only to read."""


@frozen
class File:
    """An attachment: its name and its bytes."""

    filename: str
    data: bytes


@define
class NairiState:
    """The agents, jobs and attachments of an organisation."""

    quirks: Quirks
    ids: IdMaker
    strict_agents: bool = False
    concurrency: int | None = None
    script: Script = default_script
    agents: dict[str, Agent] = field(factory=dict)
    jobs: dict[str, Job] = field(factory=dict)
    messages: dict[str, ScriptedMessage] = field(factory=dict)
    files: dict[str, File] = field(factory=dict)
    prompts: list[RecordedPrompt] = field(factory=list)
    _reads: count[int] = field(factory=lambda: count(1))

    def as_of(self, now: float, quirks: Quirks) -> float:
        """Return the time whose state the next read shows; each call counts as one read."""
        return now - quirks.stale_by if next(self._reads) % quirks.stale_every == 0 else now

    def make_agent(self, slug: str, now: float, *, name: str | None = None) -> Agent:
        """Create an agent with that slug, and replace any that had it."""
        agent = Agent(self.ids.make("cci", now), slug, name or slug, now, now, self.script)
        agent.set_capacity(self.concurrency)
        self.agents[slug] = agent
        return agent

    def find_agent(self, reference: str) -> Agent:
        """Return the agent with that slug or id."""
        by_id = (agent for agent in self.agents.values() if agent.id == reference)
        agent = self.agents.get(reference) or next(by_id, None)
        if agent is None:
            raise RefusedError(404, "agent not found")
        return agent

    def find_job(self, job_id: str) -> Job:
        """Return the job, or refuse with 400 or 404."""
        if not re.fullmatch(r"(job|j)_\w+", job_id, re.ASCII):
            raise RefusedError(400, "invalid job id")
        if job_id not in self.jobs:
            raise RefusedError(404, "job not found")
        return self.jobs[job_id]

    def find_message(self, message_id: str) -> ScriptedMessage:
        """Return the message, or refuse with 400 or 404."""
        if not re.fullmatch(r"cmsg_\w+", message_id, re.ASCII):
            raise RefusedError(400, "invalid message id")
        if message_id not in self.messages:
            raise RefusedError(404, "message not found")
        return self.messages[message_id]

    def find_file(self, attachment_id: str) -> File:
        """Return the attachment, or refuse with 400 or 404."""
        if not re.fullmatch(r"att_\w+", attachment_id, re.ASCII):
            raise RefusedError(400, "invalid attachment id")
        if attachment_id not in self.files:
            raise RefusedError(404, "attachment not found")
        return self.files[attachment_id]

    def store(self, filename: str, data: bytes, now: float) -> str:
        """Keep a file, and return the id of the attachment."""
        attachment_id = self.ids.make("att", now)
        self.files[attachment_id] = File(filename, data)
        return attachment_id

    def start(
        self, reference: str, prompt: str, now: float, *, attachment_ids: Iterable[str] = (), ask_mode: bool = False
    ) -> RecordedPrompt:
        """Create a job of the agent, and its first user message."""
        attached = self._attached(attachment_ids)
        known = self.strict_agents or reference in self.agents or reference.startswith("cci_")
        agent = self.find_agent(reference) if known else self.make_agent(reference, now)
        recorded = self._ask(self._new_job(agent, now), prompt, now, attached, ask_mode=ask_mode)
        self.prompts.append(recorded)
        return recorded

    def continue_(self, job_id: str, prompt: str, now: float, *, attachment_ids: Iterable[str] = ()) -> RecordedPrompt:
        """Add a user message to a job."""
        job = self.continuable(job_id)
        attached = self._attached(attachment_ids)
        if self.quirks.finished_jobs == "refuse" and job.status(now) != "active":
            raise RefusedError(400, f"job is {job.status(now)}")
        if self.quirks.overlapping == "refuse" and now < job.busy_until:
            raise RefusedError(400, "job has a running turn")
        recorded = self._ask(job, prompt, now, attached)
        self.prompts.append(recorded)
        return recorded

    def continuable(self, job_id: str) -> Job:
        """Return the job; refuse with 400 one that was not created through the API."""
        job = self.find_job(job_id)
        if not job.is_api:
            raise RefusedError(400, "job is not an API job")
        return job

    def foreign_job(self, reference: str, now: float) -> Job:
        """Create a job as Slack, Discord or the web UI would; it runs its agent's script once."""
        job = self._new_job(self.find_agent(reference), now, is_api=False)
        self._ask(job, "Asked elsewhere", now, ())
        return job

    def end_job(self, job_id: str, status: ClosedStatus, now: float) -> None:
        """Set the job's final status, and add a system message with the reason; running turns go on."""
        if status not in _CLOSING_NOTICES:
            msg = f"a job ends as one of {sorted(_CLOSING_NOTICES)}, not {status!r}"
            raise ValueError(msg)
        job = self.find_job(job_id)
        job.set_status(status, now)
        job.touch(now, "completion")
        notice = MessageVersion(now, "completed", _CLOSING_NOTICES[status])
        self._add(job, ScriptedMessage(self.ids.make("cmsg", now), job.id, "system", (notice,)))

    def _new_job(self, agent: Agent, now: float, *, is_api: bool = True) -> Job:
        job = Job(self.ids.make("job", now), agent, now, is_api)
        self.jobs[job.id] = job
        return job

    def _attached(self, attachment_ids: Iterable[str]) -> tuple[str, ...]:
        attached = tuple(attachment_ids)
        if len(attached) > _MOST_ATTACHMENTS:
            raise RefusedError(400, f"at most {_MOST_ATTACHMENTS} attachments are allowed")
        for attachment_id in attached:
            if attachment_id not in self.files:
                raise RefusedError(400, f"invalid attachment id: {attachment_id}")
        return attached

    def _ask(
        self, job: Job, prompt: str, now: float, attachment_ids: tuple[str, ...], *, ask_mode: bool = False
    ) -> RecordedPrompt:
        """Run one more turn of the job by the agent's script."""
        agent = job.agent
        try:
            steps = steps_of(agent.script, prompt, job.turns + 1)
        except (
            Exception
        ) as error:  # Any error of the user's own function is reported to the client, and not only logged.
            raise RefusedError(500, f"the script of {agent.agent_id} failed: {error!r}") from error
        message_id = self.ids.make("cmsg", now)
        begin = agent.acquire(max(now + agent.queued, job.busy_until))
        turn = play_script(steps, begin=begin, job_id=job.id, message_id=message_id, make_id=self.ids.make)
        agent.release(turn.ended)
        fields = {"attachment_ids": list(attachment_ids)} if attachment_ids else {}
        versions = _user_versions(prompt, now, begin, turn)
        self._add(job, ScriptedMessage(message_id, job.id, "user", versions, fields), *turn.messages)
        job.set_status("active", begin)
        if turn.status == "failed":
            job.set_status("error", turn.ended)
        job.touch(turn.ended, "completion")
        job.turns, job.busy_until = job.turns + 1, turn.ended
        return RecordedPrompt(agent.agent_id, job.id, message_id, prompt, attachment_ids, now, ask_mode)

    def _add(self, job: Job, *messages: ScriptedMessage) -> None:
        for message in messages:
            job.add(message)
            self.messages[message.id] = message


def _user_versions(prompt: str, now: float, begin: float, turn: TurnTimeline) -> tuple[MessageVersion, ...]:
    """Return the versions of a user message: queued if it has to wait, pending, and the end of its turn."""
    queued = [MessageVersion(now, "queued", prompt)] if begin > now else []
    later = (MessageVersion(begin, "pending", prompt), MessageVersion(turn.ended, turn.status, prompt))
    return (*queued, *(version for version in later if version.at < math.inf))
