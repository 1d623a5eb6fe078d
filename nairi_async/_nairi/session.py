"""`NairiSession`: prompts, turns and conversations of Nairi's agents, over one pool of connections.

The API is documented at https://nairi.ai/docs/api.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload
from weakref import WeakValueDictionary

from nairi_async._core import checks
from nairi_async._core.address import base_url as checked_base_url
from nairi_async._core.api_key import ApiKey
from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._core.closing import run_shielded
from nairi_async._core.concealed import Concealed
from nairi_async._core.private_files import setting_path
from nairi_async._core.proxies import ProxySetting
from nairi_async._core.service_session import ServiceSession
from nairi_async._nairi import arguments
from nairi_async._nairi.agents import Agents
from nairi_async._nairi.attachments import Files
from nairi_async._nairi.conversation import Conversation
from nairi_async._nairi.delivery.prompt_sender import PromptSender, checked_on_unknown
from nairi_async._nairi.journal.keys import Keys
from nairi_async._nairi.polling.context import PollingContext
from nairi_async._nairi.polling.settings import Polling
from nairi_async._nairi.reading import ReadingMethods
from nairi_async._nairi.resources import ResourceMethods
from nairi_async._nairi.service import SERVICE
from nairi_async._nairi.session_parts import SessionParts
from nairi_async._nairi.turn_reader import TurnReader
from nairi_async._nairi.usage import UsageMeter
from nairi_async.models import Turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping
    from typing import Self

    import aiohttp

    from nairi_async._core.retry import RetryPolicy
    from nairi_async._nairi.many import AskMany
    from nairi_async._nairi.polling.cadence import Cadence
    from nairi_async._nairi.polling.statistics import Stats
    from nairi_async._nairi.prompt import Prompt
    from nairi_async._nairi.results import Reply
    from nairi_async.clock import Clock
    from nairi_async.hooks import Hook
    from nairi_async.typing import Duration, OnUnknown, Source, Tls

_T = TypeVar("_T")
API_URL: Final = "https://api.nairi.ai"
"""The host of the service."""
API_PREFIX: Final = "/api/public/v1"
"""The path of the public API below the host."""
_NO_KEY: Final = (
    "no API key: give api_key= or set NAIRI_API_KEY; without an account, `nairi-async simulate` plays the service"
)


class NairiSession(ReadingMethods, ResourceMethods, ServiceSession):
    """Conversations with Nairi agents, over one pool of connections.

    Use it in `async with`, on one event loop. One session serves thousands of conversations at once. Durations are
    seconds, as a number or a `timedelta`. Methods that take a turn or conversation id also accept a `Turn`.

    Args:
        api_key: The organisation's API key (`nr_…`); by default the environment variable `NAIRI_API_KEY`.
        base_url: URL of the service, with or without `/api/public/v1`; by default `NAIRI_BASE_URL`, else the real
            service. Plain `http://` is allowed for this machine only.
        http: An open `aiohttp.ClientSession` to use, with its own proxy, TLS and tracing. It is left open.
        proxy: URL of a proxy, `http://` or `https://`, with user name and password if it asks for them.
        ssl: The path of a file of certificates, to trust those authorities and no others; or an `ssl.SSLContext`, for
            example to present a certificate of your own. By default the system's authorities are trusted, or those
            that `SSL_CERT_FILE` named when the program started.
        trust_env: Take the proxy from `HTTPS_PROXY` and `NO_PROXY`, and the authorities from `SSL_CERT_FILE`, as they
            are now. A `~/.netrc` is never read.
        request_timeout: Limit for one request, body included. Waiting for a free connection does not count.
        retry: When and how often a failed request is repeated.
        polling: How soon the session discovers new messages.
        max_connections: Maximum number of requests at once, for all conversations together.
        requests_per_second: Maximum rate of requests; by default no limit.
        journal: A file for durable keys, created if it is missing: the same `key=` of a prompt gives the same turn,
            also in a later process. One process uses it at a time; the guide is in `help(nairi_async)`.
        cadence: What another session has learnt about its agents, from `session.cadence.export()`.
        hooks: Functions that the session calls with an event for everything it does; see `nairi_async.hooks`.
        clock: The clock to use; in tests a `nairi_async.testing.VirtualClock`.

    Raises:
        ConfigurationError: the key, the URL or a setting is not valid.
        JournalError: in `async with`, the journal is in use, is another kind of file, or cannot be written.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        http: aiohttp.ClientSession | None = None,
        proxy: str | None = None,
        ssl: Tls | None = None,
        trust_env: bool = False,
        request_timeout: Duration = 30.0,
        retry: RetryPolicy | None = None,
        polling: Polling | None = None,
        max_connections: int = 100,
        requests_per_second: float | None = None,
        journal: str | os.PathLike[str] | None = None,
        cadence: Mapping[str, Any] | None = None,
        hooks: Iterable[Hook] = (),
        clock: Clock | None = None,
    ) -> None:
        # The local names are cleared first: a traceback that shows local variables must show no key and no password.
        secret_proxy, proxy = ProxySetting(proxy), None
        url, base_url = Concealed(os.environ.get("NAIRI_BASE_URL") or API_URL if base_url is None else base_url), None
        key, api_key = ApiKey(os.environ.get("NAIRI_API_KEY") if api_key is None else api_key), None
        key.check(_NO_KEY)
        path = None if journal is None else setting_path("journal", journal)
        if polling is not None:
            checks.instance("polling", polling, Polling)
        super().__init__(
            SERVICE,
            checked_base_url(url, prefix=API_PREFIX),
            key,
            http=http,
            proxy=secret_proxy,
            ssl=ssl,
            trust_env=trust_env,
            request_timeout=request_timeout,
            retry=retry,
            max_connections=max_connections,
            requests_per_second=requests_per_second,
            clock=clock,
            hooks=hooks,
        )
        self._context = PollingContext(self._executor, polling or Polling())
        if cadence is not None:
            self._context.cadence.restore(cadence)
        self._agents = Agents(self._executor)
        self._files = Files(self._executor)
        self._meter = UsageMeter()
        self._sender = PromptSender(self._context, self._agents, self._meter.learn)
        self._reader = TurnReader(self._context, self._files, self._meter)
        self._parts = SessionParts(
            clock=self._executor.clock,
            base_url=self._base_url,
            sender=self._sender,
            reader=self._reader,
            files=self._files,
        )
        self._keys = Keys(self._sender, path, self._base_url)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            await self._keys.open()
        except BaseException:
            await run_shielded(self.aclose())
            raise
        return self

    async def aclose(self) -> None:
        """Close connections and journal, in the event loop that opened them. Harmless when repeated."""
        self._check_loop()
        try:
            await super().aclose()
        finally:
            await self._keys.aclose()

    @property
    def stats(self) -> Stats:
        """Counters of the session so far: requests, bytes, polls, discovery delay, connections, waiting calls."""
        return self._context.counters.stats(self._executor.stats)

    @property
    def cadence(self) -> Cadence:
        """What the session has learnt about the duration of its agents' turns; `export` it for the next session."""
        return self._context.cadence

    async def start(
        self,
        agent_id: str,
        prompt: str,
        *,
        key: str | None = None,
        ask_mode: bool = False,
        attachment_ids: Iterable[str] = (),
        attachments: Iterable[Source] = (),
        on_unknown: OnUnknown = "raise",
    ) -> Turn:
        """Start a conversation (`POST conversations/start`).

        Args:
            agent_id: Slug or id of the agent.
            prompt: What to say; not blank.
            key: Your own name for the prompt, unique in the session's `journal`. The same key gives the same turn, also
                in a later process: from the journal, without a request, or looked up at the service if an earlier
                call's response was lost. The prompt is sent again only if it provably did not run.
            ask_mode: Restrict the agent to reading, without tools.
            attachment_ids: Ids of uploaded files.
            attachments: Files to upload first, as for `upload`; at most ten together with the ids.
            on_unknown: What to do when the prompt was sent and its response did not arrive. `"raise"` raises
                `OutcomeUnknownError`. `"reconcile"` looks the prompt up for up to a minute: it searches for a message
                with the same text and files, created since then, that belongs to no other prompt of this session. Of
                several identical prompts each gets its own turn. The prompt is never sent again. A session does not
                know what other processes send: if one sends the same text and files within seconds, the turns may be
                exchanged. A prompt with a key is sent again after the lookup if it provably did not run.

        Returns:
            The turn, for `watch`, `wait` or `reply`.

        Raises:
            InvalidArgumentError: an argument is not valid, the key was used for another prompt, agent or files, or the
                session has no journal; nothing was sent.
            JournalError: the journal cannot be written.
            AgentNotFoundError: there is no such agent; the error lists similar names.
            OutcomeUnknownError: the prompt was sent, and it is unknown whether it runs. After a lookup, `candidates`
                holds the turns that may have been started by it.
            NairiError: any other failure; the prompt was not run.
        """
        agent, text = checks.identifier("agent_id", agent_id), checks.prompt(prompt)
        is_reading, unknown = checks.flag("ask_mode", ask_mode), checked_on_unknown(on_unknown)
        uploads = self._files.pending(attachments, attachment_ids)
        if (name := self._keys.checked(key)) is not None:
            keyed = self._keys.prompt(name, text, uploads, agent_id=agent, ask_mode=is_reading)
            return await keyed.send(on_unknown=unknown)
        ids = await uploads.ids()
        return await self._sender.start(agent, text, ask_mode=is_reading, attachment_ids=ids).send(on_unknown=unknown)

    async def continue_(
        self,
        job_id: Turn | str,
        prompt: str,
        *,
        key: str | None = None,
        attachment_ids: Iterable[str] = (),
        attachments: Iterable[Source] = (),
        on_unknown: OnUnknown = "raise",
    ) -> Turn:
        """Send a further prompt to a conversation (`POST conversations/{job_id}/continue`).

        Args:
            job_id: The conversation: its job id, or one of its turns.
            prompt: What to say; not blank.
            key: As for `start`. Give the turn before it, not the bare job id, so that a lookup can rely on their order.
            attachment_ids: As for `start`.
            attachments: As for `start`.
            on_unknown: As for `start`.

        Returns:
            The new turn.

        Raises:
            NotAnApiJobError: the conversation was not started through this API.
            NotFoundError: the organisation has no such conversation.
            OutcomeUnknownError, InvalidArgumentError, JournalError, NairiError: as for `start`.
        """
        job, text = arguments.job_id(job_id), checks.prompt(prompt)
        agent, unknown = arguments.agent_id(job_id), checked_on_unknown(on_unknown)
        uploads = self._files.pending(attachments, attachment_ids)
        if (name := self._keys.checked(key)) is not None:
            previous = job_id.message_id if isinstance(job_id, Turn) else None
            keyed = self._keys.prompt(name, text, uploads, agent_id=agent, job_id=job, previous=previous)
            return await keyed.send(on_unknown=unknown)
        ids = await uploads.ids()
        pending = self._sender.continue_(job, text, attachment_ids=ids, agent_id=agent)
        return await pending.send(on_unknown=unknown)

    @overload
    async def ask(
        self,
        agent_id: str,
        prompt: str,
        *,
        key: str | None = None,
        ask_mode: bool = False,
        attachment_ids: Iterable[str] = (),
        attachments: Iterable[Source] = (),
        timeout: Duration | None = DEFAULT_TIMEOUT,
        on_unknown: OnUnknown = "raise",
        into: None = None,
        repair: int = 0,
    ) -> Reply: ...

    @overload
    async def ask(
        self,
        agent_id: str,
        prompt: str,
        *,
        key: str | None = None,
        ask_mode: bool = False,
        attachment_ids: Iterable[str] = (),
        attachments: Iterable[Source] = (),
        timeout: Duration | None = DEFAULT_TIMEOUT,
        on_unknown: OnUnknown = "raise",
        into: type[_T],
        repair: int = 0,
    ) -> Reply[_T]: ...

    async def ask(
        self,
        agent_id: str,
        prompt: str,
        *,
        key: str | None = None,
        ask_mode: bool = False,
        attachment_ids: Iterable[str] = (),
        attachments: Iterable[Source] = (),
        timeout: Duration | None = DEFAULT_TIMEOUT,
        on_unknown: OnUnknown = "raise",
        into: type[_T] | None = None,
        repair: int = 0,
    ) -> Reply[Any]:
        """Start a conversation and wait for the reply: `start` and `reply` in one call.

        Args:
            agent_id: As for `start`.
            prompt: As for `start`.
            key: As for `start`.
            ask_mode: As for `start`.
            attachment_ids: As for `start`.
            attachments: As for `start`.
            timeout: Seconds for the whole wait; `None` for no limit.
            on_unknown: As for `start`.
            into: The type of the reply's JSON value, which is returned as `Reply.value`; see `Reply.into`.
            repair: Number of follow-up prompts that may be sent in the conversation if a reply does not fit `into`.
                Those that an earlier call with the key sent, for whichever `into`, count and are not sent again.

        Raises:
            ReplyFormatError: the last reply does not fit `into`; `error.reply` is that reply.
            NairiError: as for `start` and `reply`. If the turn was started, `error.turn` is that turn.
        """
        conversation = self.conversation(agent_id, ask_mode=ask_mode)
        ask = partial(conversation.ask, prompt, key=key, attachment_ids=attachment_ids, attachments=attachments)
        return await ask(timeout=timeout, on_unknown=on_unknown, into=into, repair=repair)

    def ask_many(
        self,
        agent_id: str,
        prompts: Iterable[str | Prompt] | AsyncIterable[str | Prompt],
        *,
        limit: int = arguments.DEFAULT_LIMIT,
        ask_mode: bool = False,
        timeout: Duration | None = DEFAULT_TIMEOUT,
        on_unknown: OnUnknown = "raise",
    ) -> AskMany:
        """Return an async iterator that sends many prompts, each in its own conversation, and yields their outcomes.

        Args:
            agent_id: Slug or id of the agent.
            prompts: An iterable or async iterable of texts, or of `Prompt`s with attachments, a key, or a conversation
                to continue. It is read only as fast as prompts can be sent. Prompts of one conversation are sent in
                their order, each after the turn before it.
            limit: Maximum number of conversations at once. Twice as many as the agent runs at a time keep it busy.
            ask_mode: Restrict the agent to reading, without tools.
            timeout: Seconds for each prompt; `None` for no limit.
            on_unknown: As for `start`.
        """
        from nairi_async._nairi.many import AskMany  # noqa: PLC0415 - many programs ask one by one

        agent, bound = checks.identifier("agent_id", agent_id), checks.timeout(timeout)
        is_reading, unknown = checks.flag("ask_mode", ask_mode), checked_on_unknown(on_unknown)
        # Prompts of one conversation share a handle, which sends them one turn at a time.
        conversations = WeakValueDictionary[str, Conversation]()

        async def ask(prompt: Prompt) -> Reply:
            if prompt.job_id is None:
                conversation = self.conversation(agent, ask_mode=is_reading)
            else:
                job_id = arguments.job_id(prompt.job_id)
                conversation = conversations.setdefault(job_id, self.resume(prompt.job_id))
            key = prompt.key if self._keys.has_journal else None
            ask = partial(conversation.ask, prompt.text, key=key, attachments=prompt.attachments)
            return await ask(timeout=bound, on_unknown=unknown)

        return AskMany(prompts, ask, limit=checks.limit(limit))

    def conversation(self, agent_id: str, *, ask_mode: bool = False) -> Conversation:
        """Return a new conversation; its first prompt starts it. Arguments as for `start`."""
        checked = checks.identifier("agent_id", agent_id)
        return self._conversation(agent_id=checked, ask_mode=checks.flag("ask_mode", ask_mode))

    def resume(self, job_id: Turn | str) -> Conversation:
        """Return a handle to a conversation that was started earlier, in this process or another.

        Args:
            job_id: The conversation: its job id, or one of its turns.
        """
        return self._conversation(job_id=arguments.job_id(job_id), agent_id=arguments.agent_id(job_id))

    def _conversation(
        self, *, agent_id: str | None = None, job_id: str | None = None, ask_mode: bool = False
    ) -> Conversation:
        return Conversation(
            self._sender, self._reader, self._files, self._keys, agent_id=agent_id, job_id=job_id, ask_mode=ask_mode
        )
