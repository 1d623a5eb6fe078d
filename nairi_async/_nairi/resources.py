"""The methods of a session that start no turn: lists of conversations, files, agents, usage."""

from __future__ import annotations

from collections.abc import Container
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from nairi_async._core import checks
from nairi_async._nairi.delivery.fingerprint import PromptFingerprint
from nairi_async._nairi.delivery.search_window import SETTLING_TIME
from nairi_async._nairi.results import Reply
from nairi_async.errors import ConfigurationError, InvalidArgumentError
from nairi_async.models import Message
from nairi_async.typing import UNSET

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.agents import Agents
    from nairi_async._nairi.attachment import Attachment
    from nairi_async._nairi.attachments import Files
    from nairi_async._nairi.delivery.prompt_sender import PromptSender
    from nairi_async._nairi.listing.checkpoint import Checkpoint
    from nairi_async._nairi.listing.listing import ConversationListing, Sync
    from nairi_async._nairi.usage import UsageMeter
    from nairi_async._nairi.usage_report import UsageReport
    from nairi_async.models import Agent, Turn
    from nairi_async.typing import ConversationSort, ConversationStatus, Duration, Source, Unset, UploadProgress


class ResourceMethods:
    """The methods of `NairiSession` that start no turn. Each call raises `NairiError` if it fails."""

    _executor: RequestExecutor
    _agents: Agents
    _files: Files
    _meter: UsageMeter
    _sender: PromptSender

    @property
    def usage(self) -> UsageReport:
        """Cost and tokens of the messages that this session has read so far, summed exactly by agent and model.

        Each assistant message counts once, however often it is read. The session remembers the last 65,536 messages
        that it counted; an older one that is read again counts again.
        """
        return self._meter.report

    def conversations(
        self,
        agent_id: str,
        *,
        status: ConversationStatus | Iterable[ConversationStatus] = (),
        updated_after: datetime | None = None,
        sort: ConversationSort = "created_at_desc",
    ) -> ConversationListing:
        """Return an async iterator over the conversations of an agent, which reads page by page.

        Args:
            agent_id: Slug or id of the agent.
            status: One status or several: only conversations with one of these. By default all.
            updated_after: Only conversations that changed after this time, which must have a time zone.
            sort: The order of the conversations.
        """
        from nairi_async._nairi.listing.listing import ConversationListing  # noqa: PLC0415 - see `usage`

        return ConversationListing(self._agents, agent_id, status=status, updated_after=updated_after, sort=sort)

    async def find_start(
        self,
        agent_id: str,
        prompt: str,
        *,
        sent_after: datetime,
        sent_before: datetime | None = None,
        attachment_ids: Iterable[str] = (),
        exclude: Container[str] = (),
        settled: Duration = SETTLING_TIME,
        copies: int = 1,
    ) -> Turn | None:
        """Find the turn started by a prompt whose response was lost, for example when the sending process exited.

        It searches the agent's newest conversations for a first message with the same text and files, created in the
        given time. Clock skew is handled: the window opens when either clock first reached `sent_after`.

        `None` means that the prompt was not run and can be sent again. It is returned only if every conversation that
        the agent began from 5 minutes before to 5 minutes after that time is explained: `exclude` contains it, or this
        session knows that another prompt started it. Otherwise the prompt may be one of those, if the service changed
        its text or dated it differently, and the error names them.

        A conversation that this session started with an identical prompt counts as the lost prompt's, unless `exclude`
        contains it: you may have lost its turn before you recorded it. Concurrent searches for identical prompts take
        one turn each.

        Guaranteed as long as the prompt arrives, and the service lists its conversation, within the settling time; as
        long as the service lists new conversations first and dates them by a clock that is at most 5 minutes off the
        `Date` of its responses; as long as no one else sends the same text and files to the agent in that time; and as
        long as this machine's clock, if it was set since, was at most 5 minutes off before.

        Args:
            agent_id: Slug or id of the agent.
            prompt: The text of the prompt.
            sent_after: A time before the prompt was sent, by this machine's clock and with a time zone.
            sent_before: A time after the prompt was sent, by this machine's clock; now unless given.
            attachment_ids: Ids of the files that were sent with it.
            exclude: Job ids of conversations that belong to other prompts, including identical ones.
            settled: The settling time, in seconds: how long after `sent_before` the search continues. A prompt that
                was not found by then counts as never arrived. How late the service lists a new conversation is not
                documented.
            copies: How many identical prompts were lost, including this one. If no more turns match, one of them is
                returned.

        Returns:
            The turn; `None` if the prompt was not run.

        Raises:
            OutcomeUnknownError: more turns match than `copies`, or some conversations may belong to the prompt:
                `candidates` contains their turns. Or some conversations could not be read.
            NairiError: reading failed.
        """
        if isinstance(exclude, str) or not isinstance(exclude, Container):
            raise InvalidArgumentError(f"exclude must be a collection of job ids, not {type(exclude).__name__}")
        agent, text = checks.identifier("agent_id", agent_id), checks.prompt(prompt)
        first = checks.time("sent_after", sent_after)
        clock = self._executor.clock
        now = datetime.fromtimestamp(clock.time(), UTC)
        last = now if sent_before is None else checks.time("sent_before", sent_before)
        fingerprint = PromptFingerprint.of(None, text, checks.attachment_ids(attachment_ids))
        bound = checks.timeout(settled, "settled")
        copies = checks.limit(copies, "copies")
        # Where the clock was set back between them, the times are in the wrong order.
        sent_from, sent_to = sorted((first.timestamp(), last.timestamp()))
        if sent_before is not None:
            await self._sender.observe_server_time(agent)
        return await self._sender.find_sent(
            agent,
            fingerprint,
            sent_from=sent_from,
            sent_before=self._sender.timestamps.latest_monotonic(sent_to),
            exclude=exclude,
            settled=bound,
            copies=copies,
        )

    def sync(self, agent_id: str, *, since: Checkpoint | None = None) -> Sync:
        """Return an async iterator over the conversations that changed since a checkpoint, each once.

        Store its `checkpoint`, and give it as `since` to the next synchronisation.

        Args:
            agent_id: Slug or id of the agent.
            since: The `checkpoint` of an earlier synchronisation of this agent; by default all conversations.
        """
        from nairi_async._nairi.listing.listing import Sync  # noqa: PLC0415 - as above

        return Sync(self._agents, agent_id, since)

    async def upload(
        self,
        source: Source,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        progress: UploadProgress | None = None,
        attempt_timeout: Duration | None = None,
    ) -> str:
        """Upload a file of at most 50 MB, and return its id for `attachment_ids=`. The file is read in pieces.

        A failed attempt is repeated if the source can be read again: a path, bytes, or a seekable file.

        Args:
            source: A path, bytes, a file opened for bytes (its methods may be coroutines), or an async iterable of
                bytes. A file is read from its current position; blocking reads run in a thread.
            filename: The name to store; by default the source's own, or `attachment` if it has none.
            content_type: The media type; by default guessed from the name.
            progress: Called on the event loop with the number of bytes sent so far and the size (`None` if unknown).
                It starts again with a repeated attempt. An exception that it raises ends the upload.
            attempt_timeout: Seconds for one attempt; by default `request_timeout`, and one more for each 256 KiB.

        Raises:
            InvalidArgumentError: the source is missing, empty or too large, or the name cannot stand in a header. The
                error is raised before any request if the size is known, else during the upload.
        """
        upload = await self._files.prepare(source, filename=filename, content_type=content_type, progress=progress)
        return await self._files.upload(upload, _attempt_timeout(attempt_timeout))

    async def download(self, attachment_id: str, *, attempt_timeout: Duration | None = None) -> Attachment:
        """Download a file.

        Args:
            attachment_id: Id of the file.
            attempt_timeout: Seconds for one attempt; by default `request_timeout`, and 288 more for the largest file.
        """
        identifier = checks.identifier("attachment_id", attachment_id)
        return await self._files.download(identifier, _attempt_timeout(attempt_timeout))

    async def attachments(self, of: Reply | Message) -> list[Attachment]:
        """Download all files of a reply or a message, several at once, and return them in order.

        The first failure ends the call and is raised.
        """
        if not isinstance(of, Reply | Message):
            raise InvalidArgumentError(f"a Reply or a Message is needed, not {type(of).__name__}")
        return await self._files.fetch(of.attachment_ids)

    async def agents(self) -> list[Agent]:
        """Return the agents of the organisation (`GET agents`)."""
        return await self._agents.all()

    async def agent(self, agent_id: str) -> Agent:
        """Return one agent, by slug or id (`GET agents/{agent_id}`).

        Raises:
            AgentNotFoundError: there is no such agent; the error lists similar names.
            NairiError: reading failed.
        """
        return await self._agents.one(agent_id)

    async def create_agent(self, name: str, *, instances_count: int = 1) -> Agent:
        """Create an agent, which is not deployed yet (`POST agents`).

        Args:
            name: Display name; the service derives the slug from it.
            instances_count: Number of containers, at least 1.

        Raises:
            OutcomeUnknownError: the request was sent, and it is unknown whether the agent was created.
        """
        return await self._agents.create(name, instances_count)

    async def update_agent(
        self, agent_id: str, *, description: str | Unset = UNSET, system_prompt: str | Unset | None = UNSET
    ) -> Agent:
        """Change an agent (`PATCH agents/{agent_id}`). Arguments that are left out change nothing.

        Args:
            agent_id: Slug or id of the agent.
            description: Its description; may be empty.
            system_prompt: Its own system prompt, which may be empty; `None` restores the platform's default.

        Returns:
            The agent after the change.
        """
        return await self._agents.update(agent_id, description=description, system_prompt=system_prompt)

    async def deploy(self, agent_id: str, *, update_config_only: bool = False) -> str:
        """Queue a deployment of an agent (`POST agents/{agent_id}/deploy`).

        The service has no call that shows the state of a deployment, so there is nothing to wait for.

        Args:
            agent_id: Slug or id of the agent.
            update_config_only: Update the configuration without restarting containers.

        Returns:
            The service's word for the state, such as `queued`; the set of words is not documented.

        Raises:
            OutcomeUnknownError: the request was sent, and it is unknown whether the deployment was queued.
        """
        return await self._agents.deploy(agent_id, update_config_only=update_config_only)


def _attempt_timeout(value: Duration | None) -> float | None:
    """Return the seconds for one attempt: positive and finite, or `None` for the default."""
    if value is None:
        return None
    try:
        seconds = checks.seconds(value)
        checks.positive("attempt_timeout", seconds)
    except ConfigurationError as error:
        raise InvalidArgumentError(error.message) from error
    return seconds
