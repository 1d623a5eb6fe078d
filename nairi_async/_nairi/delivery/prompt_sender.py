"""Sends prompts: each becomes one turn at most, also after cancellations and failures."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final

from attrs import evolve

from nairi_async._core.address import path
from nairi_async._core.closing import undisturbed
from nairi_async._core.request import CallState, Request
from nairi_async._core.time_scales import Timestamps, to_monotonic, to_unix
from nairi_async._nairi.delivery.claims import KnownTurns
from nairi_async._nairi.delivery.fingerprint import PromptFingerprint
from nairi_async._nairi.delivery.search_window import SETTLING_TIME, SearchWindow
from nairi_async._nairi.polling.context import TurnOrigin
from nairi_async._nairi.polling.replica_lag import through_replica_lag
from nairi_async._nairi.wire import decode_turn, encode_continue, encode_start
from nairi_async.errors import InvalidArgumentError, NairiError, NotFoundError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Sequence
    from contextlib import AbstractContextManager

    from nairi_async._nairi.agents import Agents
    from nairi_async._nairi.delivery.claims import Claim
    from nairi_async._nairi.delivery.reconciler import Reconciler
    from nairi_async._nairi.polling.context import PollingContext
    from nairi_async.models import Turn
    from nairi_async.typing import OnUnknown

log = logging.getLogger("nairi_async.prompts")

# Seconds for the request that asks the service for its time.
_TIME_REQUEST_LIMIT: Final = 10.0


class PromptSender:
    """Sends the prompts of one session, and finds those whose responses were lost. Callers check the arguments.

    `on_turn` is called with each turn that a prompt of this session has become.
    """

    def __init__(self, context: PollingContext, agents: Agents, on_turn: Callable[[Turn], object]) -> None:
        self.context = context
        self.agents = agents
        self.on_turn = on_turn
        self.timestamps: Timestamps = Timestamps(context.clock, context.executor.server_clock)
        self.known: KnownTurns = KnownTurns()
        self._states_time = True
        # Done, with whether the request came to an end, when others need not wait for it any longer.
        self._time_request: asyncio.Future[bool] | None = None

    @cached_property
    def _reconciler(self) -> Reconciler:
        from nairi_async._nairi.delivery.reconciler import Reconciler  # noqa: PLC0415 - few sessions lose a response

        return Reconciler(self.context, self.agents, self.known)

    def start(
        self, agent_id: str, prompt: str, *, ask_mode: bool, attachment_ids: Sequence[str], is_recorded: bool = False
    ) -> PendingPrompt:
        """Return the first prompt of a new conversation, not yet sent.

        `is_recorded` says that the caller records the turn (`recording`), and can look it up if that fails.
        """
        body = encode_start(agent_id, prompt, ask_mode=ask_mode, attachment_ids=attachment_ids)
        fingerprint = PromptFingerprint.of(None, prompt, attachment_ids)
        request = _post(path("conversations", "start"), body, scope=agent_id)
        return PendingPrompt(self, request, fingerprint, agent_id, is_recorded=is_recorded)

    def continue_(
        self,
        job_id: str,
        prompt: str,
        *,
        attachment_ids: Sequence[str],
        agent_id: str | None = None,
        is_recorded: bool = False,
    ) -> PendingPrompt:
        """Return a further prompt of a conversation, not yet sent; `is_recorded` as for `start`."""
        body = encode_continue(prompt, attachment_ids=attachment_ids)
        fingerprint = PromptFingerprint.of(job_id, prompt, attachment_ids)
        request = _post(path("conversations", job_id, "continue"), body)
        return PendingPrompt(self, request, fingerprint, agent_id, is_recorded=is_recorded)

    async def find_sent(
        self,
        agent_id: str | None,
        fingerprint: PromptFingerprint,
        *,
        sent_from: float,
        sent_before: float,
        exclude: Container[str],
        settled: float,
        copies: int = 1,
        previous: str | None = None,
        deadline: float = math.inf,
    ) -> Turn | None:
        """Return the turn of a prompt that was sent between two times, by any process; `None` if it does not run.

        Args:
            agent_id: The agent; required for a prompt that started a conversation.
            fingerprint: The prompt.
            sent_from: The first of them, in Unix time by the clock of the machine that sent it, or by the service's.
            sent_before: The second, by the clock's `monotonic`: the machine's clock may be set at any moment.
            exclude: Conversations that other prompts started; for a prompt that continued one, ids of other messages.
            settled: Seconds after the second time for which it may still appear.
            copies: Number of identical lost prompts, including this one.
            previous: A user message that the conversation had before the prompt.
            deadline: A time of the clock's `monotonic` at which the search ends undecided.

        Raises:
            OutcomeUnknownError: several turns match, or not everything could be compared.
            NairiError: reading failed for good.
        """
        clock = self.context.clock
        last = min(sent_before, clock.monotonic())
        # Where the machine's clock was set back meanwhile, the first time may seem to be the later one.
        recorded_at = min(sent_from, to_unix(clock, last))
        first = to_monotonic(clock, recorded_at)
        until = last + settled
        window = SearchWindow(agent_id, first, until, previous, arrived_by=until, recorded_at=recorded_at)
        is_first = fingerprint.job_id is None
        find = self._reconciler.find_start if is_first else self._reconciler.find_continuation
        return await find(fingerprint, window, exclude, copies=copies, deadline=deadline)

    async def find_lost(
        self, claim: Claim, window: SearchWindow, error: OutcomeUnknownError, *, deadline: float
    ) -> Turn:
        """Return the turn that a lost prompt of this session started, as `Reconciler.find_lost`."""
        return await self._reconciler.find_lost(claim, window, error, deadline=deadline)

    def recording(self, turn: Turn) -> AbstractContextManager[None]:
        """Return a context in which the caller records a turn that it received, so that no search takes it.

        Enter it in the step of the event loop in which the turn was received. If the block fails, the turn can be found
        again.
        """
        return self.known.started_conversations.recording(turn)

    async def observe_server_time(self, agent_id: str | None, limit: float = _TIME_REQUEST_LIMIT) -> None:
        """Read the service's time, if no response has stated it yet, in so many seconds at most; raise nothing.

        One attempt is made for all callers that have the full time, since a refusal states the time as well. A service
        that has responded without it is not asked again.
        """
        executor = self.context.executor
        with suppress(NairiError):
            while limit >= _TIME_REQUEST_LIMIT and (shared := self._time_request) is not None:
                if await executor.closing.wait(undisturbed(shared)):
                    return
            if not self._states_time or self.timestamps.are_certain:
                return
            location = path("agents") if agent_id is None else path("agents", agent_id)
            request = Request(method="GET", path=location, observe_date=True)
            call = executor.call(
                request, bool, deadline=executor.clock.monotonic(), grace=min(limit, _TIME_REQUEST_LIMIT)
            )
            if limit < _TIME_REQUEST_LIMIT:
                await call
            else:
                await self._share(call)
            self._states_time = self.timestamps.are_certain

    async def _share(self, call: Awaitable[object]) -> None:
        """Make the request for the service's time, while others wait; if it is cancelled, one of them makes another."""
        self._time_request = shared = asyncio.get_running_loop().create_future()
        is_cancelled = True
        try:
            await call
            is_cancelled = False
        except NairiError:
            is_cancelled = False
            raise
        finally:
            self._time_request = None
            shared.set_result(not is_cancelled)


class PendingPrompt:
    """A prompt that becomes one turn at most. Made by `PromptSender`.

    `send` may be called again after it was cancelled or has failed, one call at a time.
    """

    __slots__ = (
        "_agent_id",
        "_call",
        "_fingerprint",
        "_is_recorded",
        "_request",
        "_sender",
        "_turn",
        "_window",
        "is_lost",
    )

    def __init__(
        self,
        sender: PromptSender,
        request: Request,
        fingerprint: PromptFingerprint,
        agent_id: str | None,
        *,
        is_recorded: bool,
    ) -> None:
        self._sender = sender
        self._request = request
        self._fingerprint = fingerprint
        self._agent_id = agent_id
        self._is_recorded = is_recorded
        self.is_lost: bool = False
        """Whether it was sent and its response did not come."""
        self._call = CallState()
        self._window: SearchWindow | None = None
        self._turn: Turn | None = None

    @property
    def _is_first(self) -> bool:
        """Whether the prompt starts a conversation."""
        return self._fingerprint.job_id is None

    @property
    def is_unsent(self) -> bool:
        """Whether the prompt provably does not run."""
        return self._turn is None and not self.is_lost

    async def send(self, *, on_unknown: OnUnknown = "raise", deadline: float = math.inf) -> Turn:
        """Send the prompt unless it was sent before, and return its turn.

        `deadline` is a time of the clock's `monotonic`, after which nothing is tried again.

        Raises:
            OutcomeUnknownError: it was sent, and whether it runs is not known. Every later call raises it too, unless
                it searches (`on_unknown="reconcile"`) and finds the turn.
            NairiError: it was not sent, or was refused; it may be sent again.
        """
        if self._turn is not None:
            return self._turn
        with self._sender.known.claims.open(self._fingerprint, self._call) as claim:
            if not self.is_lost:
                try:
                    return await self._send(claim, deadline)
                except OutcomeUnknownError as error:
                    unknown = error
            else:
                text = "the prompt was sent before, and whether it runs is not known"
                unknown = OutcomeUnknownError(text, self._request.method, self._request.path)
            if on_unknown == "raise" or self._window is None:
                raise unknown
            turn = await self._sender.find_lost(claim, self._window, unknown, deadline=deadline)
            return self._accept(turn, TurnOrigin(self._window.sent_from, None, is_first=self._is_first))

    async def _send(self, claim: Claim, deadline: float) -> Turn:
        context = self._sender.context
        started_at = context.clock.monotonic()
        job_id = self._fingerprint.job_id
        previous = None if job_id is None else context.latest_prompt(job_id)
        try:
            if job_id is None:
                turn = await self._call_once(deadline)
            else:
                turn = await through_replica_lag(context, job_id, partial(self._call_once, deadline), deadline=deadline)
        except OutcomeUnknownError:
            self.is_lost = True
            raise
        except NotFoundError as error:
            not_found = error
        except NairiError:
            # Refused, or never sent.
            raise
        except BaseException:
            # Cancelled, or interrupted.
            self.is_lost = self._call.write_started
            raise
        else:
            self._sender.known.claims.assign(claim, turn)
            # Counted from when it left: in a burst, prompts wait for a connection first.
            sent_at = self._call.started_at or started_at
            return self._accept(turn, TurnOrigin(sent_at, self._call.answered_at, self._is_first))
        finally:
            until = context.clock.monotonic() + SETTLING_TIME
            self._window = SearchWindow(self._agent_id, started_at, until, previous)
        # Outside of the handlers: a cancellation from here on does not make the prompt a lost one.
        if job_id is None and self._agent_id is not None:
            # A 404 to a new conversation can only mean its agent.
            await self._sender.agents.explain(self._agent_id, not_found)
        raise not_found

    async def _call_once(self, deadline: float) -> Turn:
        executor = self._sender.context.executor
        try:
            return await executor.call(self._request, decode_turn, deadline=deadline, state=self._call)
        except NotFoundError:
            # Refused: a cancellation before the next attempt does not make the prompt a lost one.
            self._call.write_started = False
            raise

    def _accept(self, turn: Turn, origin: TurnOrigin) -> Turn:
        context = self._sender.context
        self.is_lost = False
        self._turn = evolve(turn, agent_id=self._agent_id or context.agent_of_job(turn.job_id))
        context.record_origin(self._turn, origin)
        if self._is_first:
            self._sender.known.record_start(self._fingerprint, self._turn, origin.sent_at)
        if not self._is_recorded:
            self._sender.known.received.add(self._turn, is_first=self._is_first)
        self._sender.on_turn(self._turn)
        hooks = context.executor.hooks
        if hooks.listens(log):
            from nairi_async.hooks import TurnStarted  # noqa: PLC0415 - see `event_hooks`

            is_found = origin.answered_at is None
            hooks.emit(log, TurnStarted(turn=self._turn, is_first=self._is_first, is_found=is_found))
        return self._turn


def _post(location: str, body: bytes, *, scope: str | None = None) -> Request:
    unknown = "the prompt was sent, and whether it runs is not known"
    return Request(
        method="POST",
        path=location,
        body=body,
        idempotent=False,
        observe_date=True,
        unknown_outcome_message=unknown,
        scope=scope,
    )


def checked_on_unknown(value: object) -> OnUnknown:
    """Return a valid `on_unknown=`; raise `InvalidArgumentError` for anything else."""
    if value == "raise":
        return "raise"
    if value == "reconcile":
        return "reconcile"
    raise InvalidArgumentError(f"on_unknown is {value!r}: 'raise' or 'reconcile' is needed")
