"""`Conversation`: prompts to one agent, sent one turn at a time and in order, however many tasks ask."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar, overload

from nairi_async._core import checks
from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._core.permits import LoopLock
from nairi_async._core.records import define
from nairi_async._nairi import arguments
from nairi_async._nairi.delivery.prompt_sender import checked_on_unknown
from nairi_async._nairi.journal.keys import derived_key
from nairi_async._nairi.polling.watch import SentWatch
from nairi_async._nairi.turn_reader import RECOVERY_PATIENCE
from nairi_async.errors import NairiError, ReplyFormatError, TurnFailedError, WatchTimeoutError
from nairi_async.models import TERMINAL_STATUSES, Turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nairi_async._nairi.attachments import Files, PendingUploads
    from nairi_async._nairi.delivery.prompt_sender import PendingPrompt, PromptSender
    from nairi_async._nairi.journal.keyed_prompts import KeyedPrompt
    from nairi_async._nairi.journal.keys import Keys
    from nairi_async._nairi.polling.tracker import Tracker
    from nairi_async._nairi.results import Reply
    from nairi_async._nairi.turn_reader import TurnReader
    from nairi_async.typing import Duration, OnUnknown, Source

_T = TypeVar("_T")


@define
class _QueuedPrompt:
    """One prompt from the queue to its turn; a cancelled call takes it up again where it stopped."""

    text: str
    uploads: PendingUploads
    timeout: float
    on_unknown: OnUnknown
    key: str | None
    is_repair: bool = False
    deadline: float | None = None
    pending: PendingPrompt | KeyedPrompt | None = None


class Conversation:
    """A conversation with one agent. Made by `NairiSession.conversation` (new) and `NairiSession.resume` (existing).

    Prompts are sent one turn at a time, in the order in which they were awaited: each is sent when the turn before it
    has ended, whichever task sent that one and whether or not its reply was read. The object is a small handle: store
    its `job_id`, and `resume` makes another in any process. A turn that another process began may be running: await
    `last_reply` first, which waits for it.
    """

    def __init__(
        self,
        sender: PromptSender,
        reader: TurnReader,
        files: Files,
        keys: Keys,
        *,
        agent_id: str | None,
        job_id: str | None,
        ask_mode: bool = False,
    ) -> None:
        self._sender = sender
        self._reader = reader
        self._files = files
        self._keys = keys
        self._clock = sender.context.clock
        self._agent_id = agent_id
        self._job_id = job_id
        self._ask_mode = ask_mode
        self._turn: Turn | None = None
        self._lock = LoopLock()
        self._has_begun = asyncio.Event()
        # The last turn until its end was seen, and what watches it.
        self._open: Turn | None = None
        self._tracker: Tracker | None = None
        self._is_sending = False
        # A prompt that was sent, and of which it is unknown whether it runs.
        self._lost: PendingPrompt | KeyedPrompt | None = None
        # A turn that this handle did not begin may be running.
        self._is_resumed = False

    def __repr__(self) -> str:
        return f"Conversation(agent_id={self._agent_id!r}, job_id={self._job_id!r})"

    @property
    def agent_id(self) -> str | None:
        """The agent; `None` for a conversation that was resumed by its job id."""
        return self._agent_id

    @property
    def job_id(self) -> str | None:
        """The service's id of the conversation; `None` until the service has accepted the first prompt."""
        return self._job_id

    @property
    def id(self) -> str | None:
        """The job id, under the name that the dialogues of all services share (`nairi_async.dialogue`)."""
        return self._job_id

    @property
    def turn(self) -> Turn | None:
        """The last turn begun through this handle."""
        return self._turn

    @property
    def may_be_running(self) -> bool:
        """Whether a turn that was begun through this handle may be running.

        It is `True` from the moment a prompt may have been sent until the end of its turn was seen by an `ask`, a
        watch or the next prompt. After an `ask` that was cancelled or failed, `False` means that its prompt does not
        run.
        """
        return self._is_sending or self._lost is not None or self._open_turn() is not None

    async def wait_for_id(self) -> str:
        """Wait until the service has accepted the first prompt, and return the job id.

        Raises:
            SessionClosedError: the session was closed before.
        """
        while self._job_id is None:
            await self._sender.context.executor.closing.wait(self._has_begun.wait())
        return self._job_id

    @overload
    async def ask(
        self,
        prompt: str,
        *,
        key: str | None = None,
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
        prompt: str,
        *,
        key: str | None = None,
        attachment_ids: Iterable[str] = (),
        attachments: Iterable[Source] = (),
        timeout: Duration | None = DEFAULT_TIMEOUT,
        on_unknown: OnUnknown = "raise",
        into: type[_T],
        repair: int = 0,
    ) -> Reply[_T]: ...

    async def ask(
        self,
        prompt: str,
        *,
        key: str | None = None,
        attachment_ids: Iterable[str] = (),
        attachments: Iterable[Source] = (),
        timeout: Duration | None = DEFAULT_TIMEOUT,
        on_unknown: OnUnknown = "raise",
        into: type[_T] | None = None,
        repair: int = 0,
    ) -> Reply[Any]:
        """Send a prompt after the turns before it, and wait for the reply.

        Args:
            prompt: What to say; not blank.
            key: As for `NairiSession.start`. A first prompt whose turn is known makes this the handle of its
                conversation. Repairs have the same key with `/repair-1` and so on behind it; see `NairiSession.ask`.
            attachment_ids: Ids of uploaded files.
            attachments: Files to upload first, as for `NairiSession.upload`; at most ten together with the ids.
            timeout: Seconds for the whole wait, turns before this one included; `None` for no limit.
            on_unknown: As for `NairiSession.start`.
            into: A type for the JSON value of the reply, as for `Reply.into`: it becomes the reply's `value`. The
                service does not guarantee any format, so the prompt must ask for it.
            repair: Number of follow-up prompts that may be sent if a reply does not fit `into`. Each says what was
                wrong, and is a turn that costs as much as any other. The last reply is returned.

        Returns:
            The reply, once the turn has `completed`.

        Raises:
            ReplyFormatError: the last reply does not fit `into`; the error has that reply.
            TurnFailedError: the turn ended as `failed`.
            WatchTimeoutError: the timeout is over, and the turn is still running; `error.turn` can be watched.
            OutcomeUnknownError: the prompt was sent, and it is unknown whether it runs.
            NairiError: as for `NairiSession.continue_`.
        """
        repairs, number = arguments.repairs(repair, into), 0
        if into is None:
            return await self._ask(self._queued(prompt, attachment_ids, attachments, timeout, on_unknown, key=key))
        from nairi_async._nairi import structured  # noqa: PLC0415 - it imports cattrs

        structured.check_type(into)
        queued = self._queued(prompt, attachment_ids, attachments, timeout, on_unknown, key=key)
        reply = await self._ask(queued)
        while True:
            try:
                return reply.with_value(reply.into(into))
            except ReplyFormatError as error:
                if (number := number + 1) > repairs:
                    raise
                text, key = structured.repair_prompt(error.message), derived_key(queued.key, f"repair-{number}")
            further = self._queued(text, (), (), self._remaining(queued), on_unknown, key=key)
            further.is_repair = True
            reply = await self._ask(further)

    async def _ask(self, queued: _QueuedPrompt) -> Reply:
        turn = await self._take_turn(queued)
        try:
            reply = await self._reader.reply(turn, self._remaining(queued))
        except NairiError as error:
            error.turn = turn
            if isinstance(error, TurnFailedError):
                self._note_end(turn)
            raise
        self._note_end(turn)
        return reply

    def send(
        self,
        prompt: str,
        *,
        key: str | None = None,
        attachment_ids: Iterable[str] = (),
        attachments: Iterable[Source] = (),
        progress: bool = False,
        timeout: Duration | None = DEFAULT_TIMEOUT,
        on_unknown: OnUnknown = "raise",
    ) -> SentWatch:
        """Return a watch that sends a prompt after the turns before it, and follows its turn.

        The prompt is sent by the first `async for` step, by `async with`, by `reply`, or when the watch is awaited
        (`watch = await conversation.send(…)`), whichever comes first, and never twice. Arguments as for `ask`;
        `progress` adds progress messages.
        """
        queued = self._queued(prompt, attachment_ids, attachments, timeout, on_unknown, key=key)
        with_progress = checks.flag("progress", progress)

        async def prepare() -> Tracker:
            turn = await self._take_turn(queued)
            tracker = self._reader.tracker(turn, self._remaining(queued), progress=with_progress)
            if self._open is turn:
                self._tracker = tracker
            return tracker

        return SentWatch(prepare, self._reader, target=None, after=None)

    async def last_reply(
        self, *, after: Turn | str | None = None, timeout: Duration | None = DEFAULT_TIMEOUT
    ) -> Reply | None:
        """Return the reply to the last prompt of the conversation, whichever process sent it.

        The call waits until no turn of the conversation runs; prompts sent through this handle wait behind it.

        Args:
            after: A turn, or the id of its user message: only a later prompt counts.
            timeout: Seconds for the whole wait; `None` for no limit.

        Returns:
            The reply; `None` if the conversation has no prompt, or none after that message.

        Raises:
            TurnFailedError: that turn ended as `failed`.
            WatchTimeoutError: the timeout is over, and a turn still runs.
            NairiError: reading failed, or was refused.
        """
        deadline = self._clock.monotonic() + checks.timeout(timeout)
        known = None if after is None else arguments.message_id(after, "after")
        async with self._lock:
            self._is_resumed = self._job_id is not None
            asked = await self._until_idle(deadline - self._clock.monotonic())
            if self._job_id is None or asked is None or asked == known:
                return None
            turn = Turn(self._job_id, asked, agent_id=self._agent_id)
            remaining = max(0.0, deadline - self._clock.monotonic())
            return await self._reader.reply(turn, remaining, patience=RECOVERY_PATIENCE)

    async def _wait_for_turn(self, queued: _QueuedPrompt) -> None:
        """Wait until nothing runs; a prompt whose time is over by then is not sent."""
        try:
            await self._until_idle(self._remaining(queued))
        except WatchTimeoutError as error:
            text = "the prompt was not sent: the turn before it has not ended within the timeout"
            raise WatchTimeoutError(text, None, error.status) from error
        if self._remaining(queued) <= 0 < queued.timeout:
            raise WatchTimeoutError("the prompt was not sent: its turn has not come within the timeout")

    async def _until_idle(self, timeout: float) -> str | None:
        """Wait until no earlier prompt may be running; return the id of the last user message, if all were read."""
        last = None
        if (self._lost is not None or self._is_resumed) and self._job_id is not None:
            async for message in self._reader.watch(self._job_id, timeout):
                last = message.id if message.role == "user" else last
        elif (turn := self._open_turn() or self._open_elsewhere()) is not None:
            await self._reader.wait(turn, timeout)
        self._open = self._tracker = self._lost = None
        self._is_resumed = False
        return last

    async def _take_turn(self, queued: _QueuedPrompt) -> Turn:
        if queued.deadline is None:
            queued.deadline = self._clock.monotonic() + queued.timeout
        async with self._lock:
            pending = queued.pending
            if pending is None or pending.is_unsent:
                # A turn that the journal knows needs neither its files nor the end of the turns before it.
                keyed = self._keyed(queued)
                is_known = keyed is not None and await keyed.is_known()
                # Uploads keep the order of the prompts, and go on while the turn before may still run.
                files = () if is_known else await queued.uploads.ids(deadline=queued.deadline)
                if not is_known or self.may_be_running:
                    await self._wait_for_turn(queued)
                if queued.timeout == DEFAULT_TIMEOUT:
                    # The default bounds each turn by itself: how many turns run before this one says nothing about it.
                    queued.deadline = self._clock.monotonic() + queued.timeout
                # Made only now, and anew after a cancellation: another prompt may have begun the conversation.
                pending = queued.pending = keyed or self._pending(queued.text, files)
                # Behind a turn of an earlier process others may be running.
                self._is_resumed = self._is_resumed or is_known
            self._is_sending = True
            try:
                turn = await pending.send(on_unknown=queued.on_unknown, deadline=queued.deadline)
            finally:
                self._is_sending = False
                if pending.is_lost:
                    self._lost = pending
                elif self._lost is pending:
                    self._lost = None
            self._turn = self._open = turn
            self._job_id = turn.job_id
            self._has_begun.set()
            return turn

    def _open_turn(self) -> Turn | None:
        """Return the last turn unless its end was seen."""
        is_over = self._tracker is not None and self._tracker.status in TERMINAL_STATUSES
        return None if is_over else self._open

    def _open_elsewhere(self) -> Turn | None:
        """Return the conversation's last turn if this session began it without this handle and has not seen its end."""
        turn = None if self._job_id is None else self._sender.context.open_turn(self._job_id)
        return None if turn is None or turn == self._turn else turn

    def _note_end(self, turn: Turn) -> None:
        if self._open is turn:
            self._open = self._tracker = None

    def _remaining(self, queued: _QueuedPrompt) -> float:
        """Return the seconds that are left of the whole wait; by default, those for one turn."""
        if queued.timeout == DEFAULT_TIMEOUT:
            return queued.timeout
        return max(0.0, (queued.deadline or 0.0) - self._clock.monotonic())

    def _pending(self, text: str, files: Sequence[str]) -> PendingPrompt:
        if self._job_id is not None:
            return self._sender.continue_(self._job_id, text, attachment_ids=files, agent_id=self._agent_id)
        assert self._agent_id is not None  # noqa: S101 - a conversation has an agent or a job
        return self._sender.start(self._agent_id, text, ask_mode=self._ask_mode, attachment_ids=files)

    def _keyed(self, queued: _QueuedPrompt) -> KeyedPrompt | None:
        if queued.key is None:
            return None
        return self._keys.prompt(
            queued.key,
            queued.text,
            queued.uploads,
            agent_id=self._agent_id,
            job_id=self._job_id,
            ask_mode=self._ask_mode,
            previous=None if self._turn is None else self._turn.message_id,
            is_of_handle=True,
            is_repair=queued.is_repair,
        )

    def _queued(
        self,
        prompt: object,
        attachment_ids: Iterable[str],
        attachments: Iterable[Source],
        timeout: Duration | None,
        on_unknown: object,
        *,
        key: object,
    ) -> _QueuedPrompt:
        return _QueuedPrompt(
            checks.prompt(prompt),
            self._files.pending(attachments, attachment_ids),
            checks.timeout(timeout),
            checked_on_unknown(on_unknown),
            self._keys.checked(key),
        )
