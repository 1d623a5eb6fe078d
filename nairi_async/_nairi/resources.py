"""What a session offers around its turns: conversations listed and synchronised, files, agents, usage."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from nairi_async._core import checks
from nairi_async._core.upload import Upload
from nairi_async._nairi.delivery.fingerprint import PromptFingerprint
from nairi_async._nairi.delivery.reconciler import SETTLING_TIME
from nairi_async._nairi.listing.listing import ConversationListing, Sync
from nairi_async._nairi.results import Reply
from nairi_async.errors import ConfigurationError, InvalidArgumentError
from nairi_async.models import Message
from nairi_async.typing import UNSET

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.agents import Agents
    from nairi_async._nairi.attachments import Files
    from nairi_async._nairi.delivery.prompt_sender import PromptSender
    from nairi_async._nairi.listing.checkpoint import Checkpoint
    from nairi_async._nairi.results import Attachment
    from nairi_async._nairi.usage import UsageMeter, UsageReport
    from nairi_async.models import Agent, Turn
    from nairi_async.typing import Duration, Source, Unset, UploadProgress


class ResourceMethods:
    """The part of `NairiSession` that begins no turn. Every call raises `NairiError` as design section 4 says."""

    _executor: RequestExecutor
    _agents: Agents
    _files: Files
    _meter: UsageMeter
    _sender: PromptSender

    @property
    def usage(self) -> UsageReport:
        """Cost and tokens of what this session saw until now, for each agent and model, summed exactly.

        Each assistant message that the session handed out counts once, however often it was read. Bounded memory:
        see `nairi_async._nairi.usage`.
        """
        return self._meter.report

    def conversations(
        self,
        agent_id: str,
        *,
        status: str | Iterable[str] = (),
        updated_after: datetime | None = None,
        sort: str = "created_at_desc",
    ) -> ConversationListing:
        """The conversations of an agent, read page by page as the iteration goes on (api: list for agent).

        Args:
            agent_id: Slug or id of the agent.
            status: Only these: any of `active`, `completed`, `error`, `abandoned`. All unless given.
            updated_after: Only what changed strictly after this time, which has a time zone.
            sort: `created_at_desc`, `created_at_asc`, `updated_at_desc` or `updated_at_asc`.
        """
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
    ) -> Turn | None:
        """The turn of a prompt that a program sent to a new conversation before it ended, without seeing the answer.

        It is looked for among the agent's newest conversations: the first message has the same text and files, was made
        in that time, and the conversation is neither excluded nor one of this session's. Equal prompts that are looked
        for at once take one turn each (design section 6).

        Args:
            agent_id: Slug or id of the agent.
            prompt: What was said.
            sent_after: When it was sent at the earliest, by this machine's clock and with a time zone. Differences to
                the service's clock are accounted for: the moment counts at which the first of them showed that time.
            sent_before: When it was sent at the latest; now unless given.
            attachment_ids: Ids of the files that were sent with it.
            exclude: Job ids of conversations that are known to be another prompt's.
            settled: Seconds after `sent_before` at which a prompt that is not there is taken never to have arrived.
                Until then it is looked for again and again. How late the service may list a new conversation is not
                documented.

        Returns:
            The turn; `None` if there is none, so that the prompt can be sent again.

        Raises:
            OutcomeUnknownError: more was found than can be told apart (`candidates`), or not everything could be told.
            NairiError: reading failed (design section 4).
        """
        agent, text = checks.identifier("agent_id", agent_id), checks.prompt(prompt)
        first = checks.time("sent_after", sent_after)
        now = datetime.fromtimestamp(self._executor.clock.time(), UTC)
        last = now if sent_before is None else checks.time("sent_before", sent_before)
        fingerprint = PromptFingerprint.of(None, text, checks.attachment_ids(attachment_ids))
        bound = checks.timeout(settled, "settled")
        return await self._sender.find_start(agent, fingerprint, sent=(first, last), exclude=exclude, settled=bound)

    def sync(self, agent_id: str, since: Checkpoint | None = None) -> Sync:
        """The conversations that changed since a checkpoint, each once; `.checkpoint` is what to store for next time.

        Args:
            agent_id: Slug or id of the agent.
            since: The `checkpoint` of an earlier synchronisation of this agent; all conversations without it.
        """
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
        """Upload a file of at most 50 MB (api: attachments), read in pieces; returns its id, for `attachment_ids=`.

        A failed attempt is repeated where the source can be read again: a path, bytes, a file that can be wound back.

        Args:
            source: A path, bytes, a file opened for bytes (its methods may be coroutines), or an async iterable of
                bytes. A file is read from where it stands, in a thread where reading blocks.
            filename: The name to store; the source's own unless given, `attachment` if it has none.
            content_type: Its type; guessed from the name unless given.
            progress: Called with the bytes sent so far and the size (`None` if unknown), on the event loop. It begins
                again at a repeated attempt; what it raises ends the upload.
            attempt_timeout: Seconds for one attempt; by default `request_timeout`, and one more for each 256 KiB.

        Raises:
            InvalidArgumentError: nothing to read, empty, too large, or a name that no header can carry. Before any
                request where the source tells its size, else the upload is broken off.
        """
        upload = await Upload.prepare(source, filename=filename, content_type=content_type, progress=progress)
        return await self._files.upload(upload, _attempt_timeout(attempt_timeout))

    async def download(self, attachment_id: str, *, attempt_timeout: Duration | None = None) -> Attachment:
        """A file with its bytes, decoded as it arrives (api: get attachment).

        Args:
            attachment_id: Its id.
            attempt_timeout: Seconds for one attempt; by default `request_timeout`, and 288 more for the largest file.
        """
        identifier = checks.identifier("attachment_id", attachment_id)
        return await self._files.download(identifier, _attempt_timeout(attempt_timeout))

    async def attachments(self, of: Reply | Message) -> list[Attachment]:
        """All files of a reply or a message, in order, some fetched at a time; the first failure is raised."""
        if not isinstance(of, Reply | Message):
            raise InvalidArgumentError(f"a Reply or a Message has attachments, not {type(of).__name__}")
        return await self._files.fetch(of.attachment_ids)

    async def agents(self) -> list[Agent]:
        """The agents of the organisation (api: `GET agents`)."""
        return await self._agents.all()

    async def agent(self, agent_id: str) -> Agent:
        """One agent, by slug or id (api: `GET agents/{agent_id}`); `AgentNotFoundError` lists close names."""
        return await self._agents.one(agent_id)

    async def create_agent(self, name: str, *, instances_count: int = 1) -> Agent:
        """Make an agent, which is not deployed yet (api: `POST agents`).

        Args:
            name: Display name; the service makes the slug from it.
            instances_count: Number of containers, at least 1.

        Raises:
            OutcomeUnknownError: the request left, and whether the agent was made is not known.
        """
        return await self._agents.create(name, instances_count)

    async def update_agent(
        self, agent_id: str, *, description: str | Unset = UNSET, system_prompt: str | Unset | None = UNSET
    ) -> Agent:
        """Change an agent; what is not given stays as it is (api: `PATCH agents/{agent_id}`).

        Args:
            agent_id: Slug or id of the agent.
            description: What it is for; may be empty.
            system_prompt: Its own prompt, which may be empty; `None` goes back to the platform's default.

        Returns:
            The agent after the change.
        """
        return await self._agents.update(agent_id, description=description, system_prompt=system_prompt)

    async def deploy(self, agent_id: str, *, update_config_only: bool = False) -> str:
        """Queue a deployment (api: `POST agents/{agent_id}/deploy`).

        The service tells no state of a deployment afterwards, so there is nothing to wait for.

        Args:
            agent_id: Slug or id of the agent.
            update_config_only: Roll the configuration without restarting containers.

        Returns:
            The service's word for how it stands, such as `queued`; the set is not documented.

        Raises:
            OutcomeUnknownError: the request left, and whether it was queued is not known.
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
