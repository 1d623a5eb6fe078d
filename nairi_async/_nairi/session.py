"""`NairiSession`: the library's face (design sections 1 and 2)."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Final

from nairi_async._core import checks
from nairi_async._core.address import base_url as checked_base_url
from nairi_async._core.address import path
from nairi_async._core.api_key import ApiKey
from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._core.request import Request
from nairi_async._core.service_session import ServiceSession
from nairi_async._nairi import wire
from nairi_async._nairi.agents import Agents
from nairi_async._nairi.attachments import Files
from nairi_async._nairi.conversation import Conversation
from nairi_async._nairi.delivery.prompt_sender import PromptSender, checked_on_unknown
from nairi_async._nairi.many import DEFAULT_LIMIT, AskMany, WatchMany
from nairi_async._nairi.polling.context import PollingContext
from nairi_async._nairi.polling.settings import Polling
from nairi_async._nairi.resources import ResourceMethods
from nairi_async._nairi.service import SERVICE
from nairi_async._nairi.turn_reader import TurnReader
from nairi_async._nairi.usage import UsageMeter
from nairi_async.errors import ConfigurationError, InvalidArgumentError
from nairi_async.models import Turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping
    from typing import Any

    import aiohttp

    from nairi_async._core.retry import RetryPolicy
    from nairi_async._nairi.polling.cadence import Cadence
    from nairi_async._nairi.polling.statistics import Stats
    from nairi_async._nairi.polling.watch import Watch
    from nairi_async._nairi.results import Reply
    from nairi_async.clock import Clock
    from nairi_async.hooks import Hook
    from nairi_async.models import Message
    from nairi_async.typing import Duration, OnUnknown, Source

API_URL: Final = "https://api.nairi.ai"
"""The service (api: basics)."""
API_PREFIX: Final = "/api/public/v1"
"""The path of the public API below the host (api: basics)."""
_NO_KEY: Final = "no API key: give api_key=, or set NAIRI_API_KEY"


class NairiSession(ResourceMethods, ServiceSession):
    """Conversations with Nairi agents, over one pool of connections.

    Use it with `async with`, on one event loop; one session serves thousands of conversations at once. All durations
    are seconds, as a number or a `timedelta`.

    Args:
        api_key: The organisation's public key (`nr_…`); else the environment variable `NAIRI_API_KEY`.
        base_url: Where the service is, with or without `/api/public/v1`; else `NAIRI_BASE_URL`, else the real one.
            Plain `http://` only for this machine.
        http: A ready `aiohttp.ClientSession` to use, for proxies, own TLS or tracing. It is left open.
        request_timeout: Bound on one request, body included. Waiting for a free connection does not count.
        retry: When and how often a failed request is tried again.
        polling: How soon news is to be found.
        max_connections: Requests at once, whatever the number of conversations.
        requests_per_second: Bound on the rate of requests; none unless given.
        cadence: What another session has learnt about its agents, from `session.cadence.export()`.
        hooks: Functions to call with a record of what the session does; see `nairi_async.hooks`.
        clock: The time to live by; tests give `nairi_async.testing.VirtualClock`.

    Raises:
        ConfigurationError: the key, the URL or a setting cannot be used.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        http: aiohttp.ClientSession | None = None,
        request_timeout: Duration = 30.0,
        retry: RetryPolicy | None = None,
        polling: Polling | None = None,
        max_connections: int = 100,
        requests_per_second: float | None = None,
        cadence: Mapping[str, Any] | None = None,
        hooks: Iterable[Hook] = (),
        clock: Clock | None = None,
    ) -> None:
        # The name is let go of first: a traceback that shows local variables must not show the key.
        key, api_key = ApiKey(os.environ.get("NAIRI_API_KEY") if api_key is None else api_key), None
        key.check(_NO_KEY)
        if base_url is None:
            base_url = os.environ.get("NAIRI_BASE_URL") or API_URL
        if polling is not None and not isinstance(polling, Polling):
            raise ConfigurationError(f"polling is a Polling, not {type(polling).__name__}")
        super().__init__(
            SERVICE,
            checked_base_url(base_url, prefix=API_PREFIX),
            key,
            http=http,
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

    @property
    def stats(self) -> Stats:
        """What the session has done so far: requests, bytes, polls, discovery delay, connections, waiting calls."""
        return self._context.counters.stats(self._executor.stats)

    @property
    def cadence(self) -> Cadence:
        """What the session has learnt about how long its agents' turns last; `export` it to hand it on."""
        return self._context.cadence

    async def start(
        self,
        agent_id: str,
        prompt: str,
        *,
        ask_mode: bool = False,
        attachment_ids: Iterable[str] = (),
        attachments: Iterable[Source] = (),
        on_unknown: OnUnknown = "raise",
    ) -> Turn:
        """Begin a conversation (api: `POST conversations/start`).

        Args:
            agent_id: Slug or id of the agent.
            prompt: What to say; not blank.
            ask_mode: Let the agent read only, without tools.
            attachment_ids: Ids of uploaded files.
            attachments: Files to upload first, several at a time, as for `upload`; at most ten together with the ids.
            on_unknown: What to do when the prompt left and its answer did not come back. `"reconcile"` looks it up for
                at most a minute: a message of equal text and files, made since then, that is no other prompt's of this
                session. Equal prompts in doubt take one turn each. Nothing is sent again.

        Returns:
            The turn: watch it, or wait for its reply.

        Raises:
            InvalidArgumentError: before any request.
            AgentNotFoundError: there is no such agent; the error lists close names.
            OutcomeUnknownError: the prompt was sent, and whether it runs is not known; it is not sent again. After a
                lookup `candidates` holds what could not be told apart.
            NairiError: the request did not run (design section 4).
        """
        agent, text = checks.identifier("agent_id", agent_id), checks.prompt(prompt)
        is_reading, unknown = checks.flag("ask_mode", ask_mode), checked_on_unknown(on_unknown)
        ids = await self._files.pending(attachments, attachment_ids).ids()
        return await self._sender.start(agent, text, ask_mode=is_reading, attachment_ids=ids).send(on_unknown=unknown)

    async def continue_(
        self,
        job_id: str,
        prompt: str,
        *,
        attachment_ids: Iterable[str] = (),
        attachments: Iterable[Source] = (),
        on_unknown: OnUnknown = "raise",
    ) -> Turn:
        """Say more in a conversation (api: `POST conversations/{job_id}/continue`). Arguments as for `start`.

        Raises:
            NotAnApiJobError: the conversation was not begun through this API.
            NotFoundError: the organisation has no such conversation.
            OutcomeUnknownError, InvalidArgumentError, NairiError: as for `start`.
        """
        job, text = checks.identifier("job_id", job_id), checks.prompt(prompt)
        unknown = checked_on_unknown(on_unknown)
        ids = await self._files.pending(attachments, attachment_ids).ids()
        return await self._sender.continue_(job, text, attachment_ids=ids).send(on_unknown=unknown)

    async def message(self, message_id: str) -> Message:
        """One message as it is now (api: `GET messages/{message_id}`)."""
        location = path("messages", checks.identifier("message_id", message_id))
        message = await self._executor.call(Request(method="GET", path=location), wire.decode_message)
        self._meter.count_final([message])
        return message

    async def messages(self, job_id: str, *, progress: bool = False) -> list[Message]:
        """All messages of a conversation as they are now, oldest first (api: `GET conversations/{job_id}/messages`).

        Args:
            job_id: The conversation.
            progress: Include progress messages.
        """
        location = path("conversations", checks.identifier("job_id", job_id), "messages")
        decode = partial(wire.decode_timeline, progress=checks.flag("progress", progress))
        messages = list(await self._executor.call(Request(method="GET", path=location), decode))
        self._meter.count_final(messages)
        return messages

    def watch(
        self,
        turn_or_job_id: Turn | str,
        *,
        after: str | None = None,
        follow: bool = False,
        progress: bool = False,
        timeout: Duration | None = DEFAULT_TIMEOUT,
    ) -> Watch:
        """New messages as they are discovered; see `Watch` for what the iterator promises.

        Args:
            turn_or_job_id: A turn gives what follows its user message and ends with the turn. A job id gives the whole
                conversation, user messages included, and ends when no user message is open.
            after: Id of a message, such as `watch.cursor`: only what follows it is given.
            follow: Go on after the end, until closed.
            progress: Give progress messages as well.
            timeout: Seconds for the whole wait; `None` for no limit, which is the default with `follow`.
        """
        is_turn = isinstance(turn_or_job_id, Turn)
        target = _turn(turn_or_job_id) if is_turn else checks.identifier("job_id", turn_or_job_id)
        endless = checks.flag("follow", follow)
        return self._reader.watch(
            target,
            # Compared by identity: the default is no limit here, six hours given as a number are a limit.
            checks.timeout(None if endless and timeout is DEFAULT_TIMEOUT else timeout),
            after=None if after is None else checks.identifier("after", after),
            follow=endless,
            progress=checks.flag("progress", progress),
        )

    async def wait(self, turn: Turn, *, timeout: Duration | None = DEFAULT_TIMEOUT) -> Message:
        """The turn's user message once it is terminal, whether `completed` or `failed`.

        Args:
            turn: The turn.
            timeout: Seconds for the whole wait; `None` for no limit.

        Raises:
            WatchTimeoutError: the turn goes on, but the timeout is over.
            NairiError: reading failed for longer than the retry policy bears, or was refused.
        """
        return await self._reader.wait(_turn(turn), checks.timeout(timeout))

    async def reply(self, turn: Turn, *, timeout: Duration | None = DEFAULT_TIMEOUT) -> Reply:
        """Wait for the end of a turn and give what came of it: text, messages, usage. Arguments as for `wait`.

        A turn may end without any reply: the text is then empty.

        Raises:
            TurnFailedError: the turn ended as `failed`; the error holds the service's text and the messages.
            WatchTimeoutError, NairiError: as for `wait`.
        """
        return await self._reader.reply(_turn(turn), checks.timeout(timeout))

    async def ask(
        self,
        agent_id: str,
        prompt: str,
        *,
        ask_mode: bool = False,
        attachment_ids: Iterable[str] = (),
        attachments: Iterable[Source] = (),
        timeout: Duration | None = DEFAULT_TIMEOUT,
        on_unknown: OnUnknown = "raise",
    ) -> Reply:
        """Begin a conversation and wait for the reply: `start` and `reply` in one.

        Raises:
            NairiError: as for `start` and `reply`; where the turn had begun, `error.turn` names it.
        """
        return await self.conversation(agent_id, ask_mode=ask_mode).ask(
            prompt, attachment_ids=attachment_ids, attachments=attachments, timeout=timeout, on_unknown=on_unknown
        )

    def ask_many(
        self,
        agent_id: str,
        prompts: Iterable[str] | AsyncIterable[str],
        *,
        limit: int = DEFAULT_LIMIT,
        ask_mode: bool = False,
        timeout: Duration | None = DEFAULT_TIMEOUT,
        on_unknown: OnUnknown = "raise",
    ) -> AskMany:
        """Ask many prompts, each in a conversation of its own, and iterate over the outcomes as they end.

        Args:
            agent_id: Slug or id of the agent.
            prompts: The prompts; an iterable or async iterable, read only as far as there is room.
            limit: Conversations at once.
            ask_mode: Let the agent read only, without tools.
            timeout: Seconds for each prompt; `None` for no limit.
            on_unknown: As for `start`.
        """
        agent, bound = checks.identifier("agent_id", agent_id), checks.timeout(timeout)
        is_reading, unknown = checks.flag("ask_mode", ask_mode), checked_on_unknown(on_unknown)

        async def ask(prompt: str) -> Reply:
            return await self.ask(agent, prompt, ask_mode=is_reading, timeout=bound, on_unknown=unknown)

        return AskMany(prompts, ask, limit=checks.limit(limit))

    def watch_many(self, turns: Iterable[Turn], *, timeout: Duration | None = DEFAULT_TIMEOUT) -> WatchMany:
        """Watch many turns at once: `async with nairi.watch_many(turns) as stream`, then `async for turn, message`.

        Args:
            turns: The turns; one that is named twice is watched once.
            timeout: Seconds for each turn; `None` for no limit.
        """
        bound = checks.timeout(timeout)
        return WatchMany([_turn(turn) for turn in turns], lambda turn: self._reader.watch(turn, bound))

    def conversation(self, agent_id: str, *, ask_mode: bool = False) -> Conversation:
        """A new dialogue; it begins with its first prompt."""
        checked = checks.identifier("agent_id", agent_id)
        return self._conversation(agent_id=checked, ask_mode=checks.flag("ask_mode", ask_mode))

    def resume(self, job_id: str) -> Conversation:
        """A dialogue that began earlier, in this process or another."""
        return self._conversation(job_id=checks.identifier("job_id", job_id))

    def _conversation(
        self, *, agent_id: str | None = None, job_id: str | None = None, ask_mode: bool = False
    ) -> Conversation:
        return Conversation(
            self._sender, self._reader, self._files, agent_id=agent_id, job_id=job_id, ask_mode=ask_mode
        )


def _turn(value: object) -> Turn:
    if not isinstance(value, Turn):
        kind = type(value).__name__
        raise InvalidArgumentError(f"a Turn is needed, as start() and continue_() return it, not {kind}")
    # A turn may come from a file.
    checks.identifier("job_id", value.job_id)
    checks.identifier("message_id", value.message_id)
    return value
