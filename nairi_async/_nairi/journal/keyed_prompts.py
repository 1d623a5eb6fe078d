"""Sends prompts under durable keys: looks a key up in the journal, then the prompt at the service, then sends it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Container
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from attrs import evolve, field

from nairi_async._core.permits import LoopLock
from nairi_async._core.records import define, frozen
from nairi_async._nairi.delivery.fingerprint import PromptFingerprint
from nairi_async._nairi.delivery.identical_prompts import IdenticalPrompts
from nairi_async._nairi.delivery.search_window import SETTLING_TIME
from nairi_async._nairi.journal.entry import Entry
from nairi_async._nairi.journal.journal import Journal
from nairi_async.errors import (
    AuthenticationError,
    InvalidArgumentError,
    JournalError,
    NairiError,
    OutcomeUnknownError,
    SessionClosedError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from nairi_async._nairi.attachments import PendingUploads
    from nairi_async._nairi.delivery.prompt_sender import PendingPrompt, PromptSender
    from nairi_async.models import Turn
    from nairi_async.typing import OnUnknown

# How often one call sends a prompt whose response is lost each time and that provably did not run.
_MAX_SENDS: Final = 3


class KeyedPrompts:
    """The durable keys of one session.

    Args:
        sender: Sends the prompts.
        path: The journal.
        base_url: The service that the journal belongs to.
    """

    def __init__(self, sender: PromptSender, path: Path, base_url: str) -> None:
        self._sender, self._path, self._base_url = sender, path, base_url
        self._clock = sender.context.clock
        self._opened: Journal | None = None
        self._opened_at = 0.0
        self._others: Container[str] = frozenset()
        # One call at a time for each key.
        self._calls = WeakValueDictionary[str, LoopLock]()
        self._identical = IdenticalPrompts()
        # When this process lost the response to a prompt, by the monotonic clock.
        self._lost_at: dict[str, float] = {}

    async def open(self) -> None:
        """Open the journal.

        Raises:
            JournalError: it cannot be used, or is in use.
        """
        journal = Journal(self._path, self._clock, self._base_url)
        await journal.start()
        self._opened, self._opened_at = journal, self._clock.monotonic()
        self._others = _Explained(journal.conversations, self._sender.known.received)

    async def aclose(self) -> None:
        """Finish what is being written, and close the journal. Harmless when repeated."""
        if self._opened is not None:
            await self._opened.aclose()

    async def is_known(self, prompt: KeyedPrompt) -> bool:
        """Return whether the prompt's turn is in the journal.

        Raises:
            InvalidArgumentError: the key was used for another prompt.
        """
        entry = await self._find(prompt)
        return entry is not None and entry.turn is not None

    async def send(self, prompt: KeyedPrompt, *, on_unknown: OnUnknown, deadline: float) -> Turn:
        """Return the turn of a prompt: from the journal, found at the service, or begun now.

        Raises:
            InvalidArgumentError: the key was used for another prompt; nothing was sent.
            JournalError: the journal cannot be written.
            OutcomeUnknownError: it is not known whether the prompt runs.
            NairiError: it does not run.
        """
        async with self._calls.setdefault(prompt.key, LoopLock()):
            entry = await self._find(prompt)
            if entry is not None and entry.turn is not None:
                prompt.is_lost, prompt.is_recorded = False, True
                return entry.turn
            for sends_left in reversed(range(_MAX_SENDS)):
                if entry is not None:
                    prompt.is_lost = True
                    turn = await self._look_up(prompt, entry, deadline)
                    if turn is not None:
                        return turn
                files = await prompt.uploads.ids(deadline=deadline) if entry is None else entry.attachment_ids
                entry = await self._new_entry(prompt, entry, files, deadline)
                try:
                    return await self._send(prompt, entry, deadline)
                except OutcomeUnknownError:
                    if on_unknown == "raise" or not sends_left:
                        raise
            raise AssertionError("unreachable")

    async def _find(self, prompt: KeyedPrompt) -> Entry | None:
        self._sender.context.executor.http.check_open()
        entry = await self._journal.find(prompt.key)
        if entry is not None:
            prompt.check(entry, await prompt.request())
        return entry

    async def _new_entry(
        self, prompt: KeyedPrompt, old: Entry | None, files: tuple[str, ...], deadline: float
    ) -> Entry:
        """Return the entry of a prompt that is about to leave; one that was sent before keeps its kind."""
        job_id = prompt.job_id if old is None else old.fingerprint.job_id
        agent_id = prompt.agent_id if old is None else old.agent_id
        # A lost prompt can then be looked up by the service's time, even if this machine's clock is set meanwhile.
        await self._sender.observe_server_time(agent_id, max(0.0, deadline - self._clock.monotonic()) / 2.0)
        return Entry(
            key=prompt.key,
            request=await prompt.request(),
            agent_id=agent_id,
            fingerprint=PromptFingerprint.of(job_id, prompt.text, files),
            sent_at=self._sender.timestamps.earliest(),
            attachment_ids=files,
            previous=prompt.previous if old is None else old.previous,
        )

    async def _send(self, prompt: KeyedPrompt, entry: Entry, deadline: float) -> Turn:
        pending = self._pending(prompt, entry)
        prompt.is_lost = False
        with self._identical.sending(entry.fingerprint):
            try:
                await self._journal.write(entry)
                turn = await pending.send(deadline=deadline)
            except BaseException:
                if pending.is_unsent:
                    # The entry may have become durable.
                    self._journal.forget(entry.key)
                else:
                    self._note_lost(prompt)
                raise
            return await self._record(prompt, entry, turn)

    async def _record(self, prompt: KeyedPrompt, entry: Entry, turn: Turn) -> Turn:
        """Record the turn that a prompt became, in the step of the event loop in which it became known."""
        journal = self._journal
        try:
            # From here on no lookup of this session takes the turn, unless recording fails.
            with self._sender.recording(turn):
                cancellation = await journal.write(evolve(entry, turn=turn)).decided()
        except BaseException as error:
            self._note_lost(prompt)
            if isinstance(error, NairiError):
                error.turn = turn
            raise
        prompt.is_lost, prompt.is_recorded = False, True
        self._lost_at.pop(prompt.key, None)
        if cancellation is not None:
            raise cancellation
        return turn

    async def _look_up(self, prompt: KeyedPrompt, entry: Entry, deadline: float) -> Turn | None:
        """Find what an earlier call's prompt became, and record it; return `None` if it provably does not run."""
        async with self._identical.lookup(entry.fingerprint):
            try:
                turn = await self._search(prompt, entry, deadline)
            except (OutcomeUnknownError, JournalError, SessionClosedError, AuthenticationError):
                raise
            except NairiError as error:
                text = f"the prompt was sent, and could not be looked up: {error}"
                raise OutcomeUnknownError(text) from error
            return None if turn is None else await self._record(prompt, entry, turn)

    async def _search(self, prompt: KeyedPrompt, entry: Entry, deadline: float) -> Turn | None:
        fingerprint = entry.fingerprint

        async def find(copies: int) -> Turn | None:
            return await self._sender.find_sent(
                entry.agent_id,
                fingerprint,
                sent_from=entry.sent_at,
                # An earlier process had ended when the journal was opened.
                sent_before=self._lost_at.get(prompt.key, self._opened_at),
                exclude=self._others if fingerprint.job_id is None else self._journal.messages,
                settled=SETTLING_TIME,
                copies=copies,
                previous=entry.previous,
                deadline=deadline,
            )

        return await self._identical.search(fingerprint, partial(self._journal.count_sending, fingerprint), find)

    def _pending(self, prompt: KeyedPrompt, entry: Entry) -> PendingPrompt:
        files, job_id = entry.attachment_ids, entry.fingerprint.job_id
        if job_id is not None:
            return self._sender.continue_(
                job_id, prompt.text, attachment_ids=files, agent_id=entry.agent_id, is_recorded=True
            )
        assert entry.agent_id is not None  # noqa: S101 - a conversation is started with an agent
        return self._sender.start(
            entry.agent_id, prompt.text, ask_mode=prompt.ask_mode, attachment_ids=files, is_recorded=True
        )

    def _note_lost(self, prompt: KeyedPrompt) -> None:
        prompt.is_lost = True
        self._lost_at[prompt.key] = self._clock.monotonic()

    @property
    def _journal(self) -> Journal:
        if self._opened is None:
            raise SessionClosedError("the session is not open yet; use it in `async with`")
        return self._opened


@frozen(eq=False)
class _Explained:
    """Conversations that cannot be a lost prompt: other keys' own, and those of prompts without a key."""

    of_keys: Container[str]
    of_others: Container[str]

    def __contains__(self, job_id: object) -> bool:
        return isinstance(job_id, str) and (job_id in self.of_keys or job_id in self.of_others)


@define(eq=False, kw_only=True)
class KeyedPrompt:
    """A prompt that becomes one turn at most, over all processes that use the journal; see `PendingPrompt`."""

    prompts: KeyedPrompts
    key: str
    text: str
    uploads: PendingUploads
    agent_id: str | None
    """The agent; required without a conversation."""
    job_id: str | None = None
    """The conversation; without one it is started."""
    ask_mode: bool = False
    previous: str | None = None
    """A user message that the conversation has, if one is known."""
    is_of_handle: bool = False
    """Whether a `Conversation` sends it. Which of its prompts comes first may differ from run to run."""
    is_repair: bool = False
    """Whether its text follows from what did not fit in the reply before, and may differ from run to run."""
    is_lost: bool = field(default=False, init=False)
    """Whether it was sent and its turn is not known."""
    is_recorded: bool = field(default=False, init=False)
    """Whether its turn is in the journal."""
    _request: str | None = field(default=None, init=False)

    @property
    def is_unsent(self) -> bool:
        """Whether the prompt provably does not run, as far as this process knows."""
        return not self.is_recorded and not self.is_lost

    async def is_known(self) -> bool:
        """Return whether the journal holds its turn, so that nothing has to be sent."""
        return await self.prompts.is_known(self)

    async def send(self, *, on_unknown: OnUnknown = "raise", deadline: float = math.inf) -> Turn:
        """Return the prompt's turn, as `KeyedPrompts.send`; may be called again."""
        return await self.prompts.send(self, on_unknown=on_unknown, deadline=deadline)

    async def request(self) -> str:
        """Return what was asked for, apart from the agent and the conversation, as the journal stores it."""
        if self._request is None:
            digest = hashlib.blake2b(self.text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
            text = "repair" if self.is_repair else digest
            self._request = json.dumps([text, await self.uploads.digest(), self.ask_mode])
        return self._request

    def check(self, entry: Entry, request: str) -> None:
        """Refuse a key that was used for something else.

        Raises:
            InvalidArgumentError: it was.
        """
        was, is_now = json.loads(entry.request), json.loads(request)
        names = ("text", "attachments", "ask_mode")
        differences = [name for name, old, new in zip(names, was, is_now, strict=True) if old != new]
        if self.job_id is not None or entry.fingerprint.job_id is not None:
            # The mode is that of the conversation.
            differences = [name for name in differences if name != "ask_mode"]
        if not self._has_same_target(entry):
            differences.append("agent" if self.job_id is None else "conversation")
        if differences:
            raise InvalidArgumentError(
                f"the key {self.key!r} was used for another prompt (other {', '.join(differences)}): "
                "give this one a key of its own"
            )

    def _has_same_target(self, entry: Entry) -> bool:
        continued = entry.fingerprint.job_id
        if not self.is_of_handle:
            is_same_agent = self.job_id is not None or entry.agent_id == self.agent_id
            return continued == self.job_id and is_same_agent
        if self.job_id is None:
            return entry.agent_id == self.agent_id
        became = None if entry.turn is None else entry.turn.job_id
        return self.job_id in {continued, became}
