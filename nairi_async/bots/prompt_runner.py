"""Asks prompts in the dialogues of chats, and keeps the records of the chats in step."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from attrs import evolve

from nairi_async._core.fan_out import gather_limited
from nairi_async._core.retry import is_transient
from nairi_async.bots.capabilities import AnnouncesId, CanComplete, KnowsWhetherRunning, Uploads
from nairi_async.bots.chat_dialogue import continued_id, open_dialogue, prepared_call, takes
from nairi_async.bots.store import message_id_of
from nairi_async.bots.typing_indicator import background
from nairi_async.errors import (
    ConnectionFailedError,
    InteractionVoidError,
    InvalidArgumentError,
    NairiError,
    OutcomeUnknownError,
    SessionClosedError,
    StatusError,
    TurnFailedError,
    WatchTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nairi_async.bots.chat_record import ChatRecord
    from nairi_async.bots.deadline import Deadline
    from nairi_async.bots.sending_times import SendingTimes
    from nairi_async.bots.store import ChatPrompt, Record
    from nairi_async.dialogue import Answer, Dialogue, Dialogues
    from nairi_async.typing import Source

# Seconds spent on finding out how a turn ended that an earlier process did not see end.
_SETTLE_TIMEOUT: Final = 60.0
_UPLOADS_AT_ONCE: Final = 3


class PromptRunner:
    """Asks prompts of one target, each when its chat is free."""

    def __init__(
        self, session: Dialogues, target: str, times: SendingTimes, on_new_dialogue: Callable[[str], object]
    ) -> None:
        self._session = session
        self._target = target
        self._times = times
        self._on_new_dialogue = on_new_dialogue

    async def run(
        self,
        chat: ChatRecord,
        prompt: ChatPrompt,
        files: Sequence[Source],
        deadline: Deadline,
        left: Answer | TurnFailedError | None = None,
        *,
        is_recovery: bool = False,
    ) -> Answer:
        """Save that the prompt may be running, ask it, and return the reply.

        If it provably did not run, the record is saved as it was before, so that its key may be used again.

        Args:
            chat: The chat, in which no other prompt runs.
            prompt: What to ask.
            files: Its files that are not uploaded yet.
            deadline: The end of the whole wait.
            left: What came of the prompt before, if it was found out only now.
            is_recovery: Keep the prompt where it waits if this call is cancelled before it was sent, or if it provably
                did not run and another attempt may succeed.
        """
        before = chat.record
        undo = partial(_kept if is_recovery else _without, prompt=prompt, before=before)
        try:
            dialogue = await self._dialogue(chat, deadline)
            prompt, files = await self._uploaded(dialogue, prompt, files, deadline)
            sent_after = await self._times.before_sending(deadline.left() / 2.0)
            call = prepared_call(dialogue, prompt.text, files, prompt.attachment_ids, deadline.options())
        except (Exception, asyncio.CancelledError):
            await chat.save_outcome(undo)
            raise
        begun = evolve(prompt, sent_after=sent_after, sent_before=None, has_files=bool(files))
        # A recovered prompt that is refused is not asked again.
        closed = evolve(before, is_open=False, prompt=None) if is_recovery else before
        last_message_id = message_id_of(left)
        dialogue_id = dialogue.id
        await chat.save_or_undo(
            lambda record: evolve(record.with_prompt(begun, last_message_id=last_message_id), dialogue_id=dialogue_id),
            undo,
        )
        after: Callable[[Record], Record] = _unchanged
        try:
            async with background(self._save_id(chat, dialogue)):
                return await call()
        except asyncio.CancelledError:
            # Without `may_be_running`, whether it was sent is not known.
            if isinstance(dialogue, KnowsWhetherRunning) and not dialogue.may_be_running:
                after = undo
            else:
                after = self._with_end
            raise
        except TurnFailedError as failed:
            after = partial(_with_failure, failed=failed)
            raise
        except NairiError as error:
            after = self._with_end
            is_unsent = _did_not_run(error, dialogue)
            if is_unsent and (isinstance(error, SessionClosedError) or (is_recovery and is_passing(error))):
                after = undo
            elif is_unsent:
                # Whether a dialogue exists whose first turn is void is not known: the next prompt settles it first.
                is_vague = isinstance(error, InteractionVoidError) and before.dialogue_id is None
                after = partial(_without, prompt=prompt, before=evolve(closed, is_open=closed.is_open or is_vague))
            raise
        finally:
            going_on = continued_id(dialogue)
            await chat.save_outcome(lambda record: evolve(after(record), dialogue_id=going_on))

    def _with_end(self, record: Record) -> Record:
        """Return the record of a prompt that may be running, with the time before which it was sent."""
        return evolve(record, prompt=record.prompt and evolve(record.prompt, sent_before=self._times.after_sending()))

    async def _dialogue(self, chat: ChatRecord, deadline: Deadline) -> Dialogue:
        """Open the chat's dialogue; if it is over after a turn whose end was not seen, begin another."""
        dialogue = open_dialogue(self._session, self._target, chat.record)
        if chat.record.is_open and chat.record.dialogue_id is not None and isinstance(dialogue, CanComplete):
            await dialogue.settle(timeout=min(_SETTLE_TIMEOUT, deadline.left()))
            if dialogue.is_completed:
                return self._session.conversation(self._target)
        return dialogue

    async def _uploaded(
        self, dialogue: Dialogue, prompt: ChatPrompt, files: Sequence[Source], deadline: Deadline
    ) -> tuple[ChatPrompt, Sequence[Source]]:
        """Upload the files, so that their ids are known to a process that looks for the prompt."""
        if not files or not isinstance(self._session, Uploads) or not takes(dialogue, "attachment_ids"):
            return prompt, files
        uploads = [partial(self._session.upload, file) for file in files]
        ids = await deadline.bound(gather_limited(uploads, at_once=_UPLOADS_AT_ONCE))
        return evolve(prompt, attachment_ids=(*prompt.attachment_ids, *ids), has_files=False), ()

    async def _save_id(self, chat: ChatRecord, dialogue: Dialogue) -> None:
        """Save a new dialogue's id as soon as it is known, which is long before the reply."""
        # The dialogue may have its id by now; the record has not.
        if chat.record.dialogue_id is None and isinstance(dialogue, AnnouncesId):
            try:
                dialogue_id = await dialogue.wait_for_id()
            except SessionClosedError:
                return  # what became of the prompt is said by its own error
            self._on_new_dialogue(dialogue_id)
            await chat.save_outcome(lambda record: evolve(record, dialogue_id=dialogue_id))


def is_passing(error: NairiError) -> bool:
    """Return whether a later attempt may succeed where this one failed."""
    return is_transient(error, idempotent=True, unreadable=True)


def _unchanged(record: Record) -> Record:
    return record


def _without(record: Record, prompt: ChatPrompt, before: Record) -> Record:
    return record.without_prompt(prompt, before)


def _kept(record: Record, prompt: ChatPrompt, before: Record) -> Record:
    return record.with_prompt_kept(prompt, before)


def _with_failure(record: Record, failed: TurnFailedError) -> Record:
    return record.with_outcome(failed)


def _did_not_run(error: NairiError, dialogue: Dialogue) -> bool:
    """Return whether the error proves that the prompt did not run, or that the service undid it."""
    if error.turn is not None or isinstance(error, OutcomeUnknownError):
        return False
    if isinstance(error, WatchTimeoutError | SessionClosedError):
        return isinstance(dialogue, KnowsWhetherRunning) and not dialogue.may_be_running
    is_unsent = isinstance(error, ConnectionFailedError) and not error.sent
    return is_unsent or isinstance(error, InteractionVoidError | InvalidArgumentError | StatusError)
