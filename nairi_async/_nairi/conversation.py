"""One dialogue: prompts go out one turn at a time, in order, however many tasks speak (design section 1)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from attrs import define

from nairi_async._core import checks
from nairi_async._nairi.delivery.pending_prompt import checked_on_unknown
from nairi_async._nairi.polling.watch import DEFAULT_TIMEOUT, Watch
from nairi_async.errors import NairiError, WatchTimeoutError
from nairi_async.models import Turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nairi_async._nairi.attachments import PendingUploads
    from nairi_async._nairi.delivery.pending_prompt import PendingPrompt
    from nairi_async._nairi.polling.tracker import Tracker
    from nairi_async._nairi.results import Reply
    from nairi_async._nairi.turns import TurnService
    from nairi_async.typing import Duration, OnUnknown, Source


@define
class _Sending:
    """One prompt, from the queue to its turn; taken up again where a cancellation left it."""

    prompt: str
    attaching: PendingUploads
    timeout: float
    on_unknown: OnUnknown
    deadline: float | None = None
    dispatch: PendingPrompt | None = None


class Conversation:
    """A dialogue with one agent. Made by `NairiSession.conversation` (new) and `NairiSession.resume` (existing).

    Prompts are sent one turn at a time, in the order in which they were awaited: a prompt leaves when the turn before
    it has ended, whichever task sent that one and whether or not anybody read its reply. It is a small handle: keep
    its `job_id`, and `resume` rebuilds it in another process.
    """

    def __init__(self, turns: TurnService, *, agent_id: str | None, job_id: str | None, ask_mode: bool = False) -> None:
        self._turns = turns
        self._agent_id = agent_id
        self._job_id = job_id
        self._ask_mode = ask_mode
        self._turn: Turn | None = None
        self._order = asyncio.Lock()
        # What may still run: the last turn until its end was seen, or a prompt of which nobody knows.
        self._open: Turn | None = None
        self._is_in_doubt = False

    def __repr__(self) -> str:
        return f"Conversation(agent_id={self._agent_id!r}, job_id={self._job_id!r})"

    @property
    def agent_id(self) -> str | None:
        """The agent; `None` for a resumed conversation."""
        return self._agent_id

    @property
    def job_id(self) -> str | None:
        """The service's id of the conversation; `None` until the first prompt was sent."""
        return self._job_id

    @property
    def id(self) -> str | None:
        """The job id, under the name that dialogues of all services share (`nairi_async.dialogue`)."""
        return self._job_id

    @property
    def turn(self) -> Turn | None:
        """The last turn begun through this handle."""
        return self._turn

    async def ask(
        self,
        prompt: str,
        *,
        attachment_ids: Iterable[str] = (),
        attachments: Iterable[Source] = (),
        timeout: Duration | None = None,
        on_unknown: OnUnknown = "raise",
    ) -> Reply:
        """Send a prompt when its turn has come, and wait for the reply.

        Args:
            prompt: What to say; not blank.
            attachment_ids: Ids of uploaded files.
            attachments: Files to upload first, as for `NairiSession.upload`; at most ten together with the ids.
            timeout: Seconds for the whole wait, turns before this one included; 6 hours unless given.
            on_unknown: As for `NairiSession.start`.

        Returns:
            The reply, once the turn has `completed`.

        Raises:
            TurnFailedError: the turn ended as `failed`.
            WatchTimeoutError: the turn goes on, but the timeout is over; `error.turn` can be watched.
            OutcomeUnknownError: the prompt was sent, and whether it runs is not known.
            NairiError: as for `NairiSession.continue_`.
        """
        sending = self._sending(prompt, attachment_ids, attachments, timeout, on_unknown)
        turn = await self._take_turn(sending)
        try:
            reply = await self._turns.reply(turn, self._remaining(sending))
        except NairiError as error:
            error.turn = turn
            raise
        self._note_end(turn)
        return reply

    def send(
        self,
        prompt: str,
        *,
        attachment_ids: Iterable[str] = (),
        attachments: Iterable[Source] = (),
        progress: bool = False,
        timeout: Duration | None = None,
        on_unknown: OnUnknown = "raise",
    ) -> Watch:
        """Send a prompt when its turn has come, and watch the turn.

        The prompt leaves with the first `async for` step, on `async with`, or when the watch is awaited
        (`watch = await conversation.send(…)`), whichever comes first, and never twice. Arguments as for `ask`;
        `progress` adds progress messages.
        """
        sending = self._sending(prompt, attachment_ids, attachments, timeout, on_unknown)
        with_progress = checks.flag("progress", progress)

        async def prepare() -> Tracker:
            turn = await self._take_turn(sending)
            return self._turns.tracker(turn, self._remaining(sending), progress=with_progress)

        return Watch(prepare, turn=None, after=None, note=self._turns.meter.count)

    async def last_reply(self, *, after: str | None = None, timeout: Duration | None = None) -> Reply | None:
        """The reply to the last prompt of the conversation, whoever sent it: to go on where another process ended.

        It waits until no turn of the conversation runs; prompts sent through this handle wait behind it.

        Args:
            after: Id of a user message, such as `reply.turn.message_id`: only what was said after it counts.
            timeout: Seconds for the whole wait; 6 hours unless given.

        Returns:
            The reply; `None` where nobody said anything, or nothing after that message.

        Raises:
            TurnFailedError: that turn ended as `failed`.
            WatchTimeoutError: a turn goes on, but the timeout is over.
            NairiError: reading failed, or was refused.
        """
        deadline = self._turns.clock.monotonic() + checks.timeout(timeout, DEFAULT_TIMEOUT)
        known = None if after is None else checks.identifier("after", after)
        async with self._order:
            self._is_in_doubt = self._job_id is not None
            asked = await self._until_idle(deadline - self._turns.clock.monotonic())
            if self._job_id is None or asked is None or asked == known:
                return None
            turn = Turn(self._job_id, asked, agent_id=self._agent_id)
            return await self._turns.reply(turn, max(0.0, deadline - self._turns.clock.monotonic()))

    def _note_end(self, turn: Turn) -> None:
        if self._open is turn:
            self._open = None

    async def _wait_in_line(self, sending: _Sending) -> None:
        """Wait until nothing runs; a prompt whose time is over by then is not sent any more."""
        try:
            await self._until_idle(self._remaining(sending))
        except WatchTimeoutError as error:
            told = "the prompt was not sent: the turn before it has not ended within the timeout"
            raise WatchTimeoutError(told, None, error.status) from error
        if self._remaining(sending) <= 0 < sending.timeout:
            raise WatchTimeoutError("the prompt was not sent: its turn has not come within the timeout")

    async def _until_idle(self, timeout: float) -> str | None:
        """Wait until nothing that was sent before may still run; the id of the last user message, if all were read."""
        last = None
        if self._is_in_doubt and self._job_id is not None:
            async for message in self._turns.watch(self._job_id, timeout):
                last = message.id if message.role == "user" else last
        elif self._open is not None:
            await self._turns.ending(self._open, timeout).wait()
        self._open, self._is_in_doubt = None, False
        return last

    async def _take_turn(self, sending: _Sending) -> Turn:
        if sending.deadline is None:
            sending.deadline = self._turns.clock.monotonic() + sending.timeout
        async with self._order:
            dispatch = sending.dispatch
            if dispatch is None or dispatch.is_unsent:
                # In its place in the order, and while the turn before may still run.
                files = await sending.attaching.ids(deadline=sending.deadline)
                await self._wait_in_line(sending)
                # Made only now, and anew after a cancellation: another prompt may have begun the conversation.
                dispatch = sending.dispatch = self._dispatch(sending.prompt, files)
            try:
                turn = await dispatch.send(on_unknown=sending.on_unknown, deadline=sending.deadline)
            finally:
                self._is_in_doubt = self._is_in_doubt or dispatch.is_in_doubt
            self._turn = self._open = turn
            self._job_id = turn.job_id
            return turn

    def _remaining(self, sending: _Sending) -> float:
        """Seconds of the whole wait that are left."""
        return max(0.0, (sending.deadline or 0.0) - self._turns.clock.monotonic())

    def _dispatch(self, prompt: str, files: Sequence[str]) -> PendingPrompt:
        if self._job_id is not None:
            return self._turns.continue_(self._job_id, prompt, attachment_ids=files, agent_id=self._agent_id)
        assert self._agent_id is not None  # noqa: S101 - a conversation has an agent or a job
        return self._turns.start(self._agent_id, prompt, ask_mode=self._ask_mode, attachment_ids=files)

    def _sending(
        self,
        prompt: object,
        attachment_ids: Iterable[str],
        attachments: Iterable[Source],
        timeout: Duration | None,
        on_unknown: object,
    ) -> _Sending:
        return _Sending(
            checks.prompt(prompt),
            self._turns.files.attaching(attachments, attachment_ids),
            checks.timeout(timeout, DEFAULT_TIMEOUT),
            checked_on_unknown(on_unknown),
        )
