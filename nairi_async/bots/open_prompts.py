"""Finding out what became of a prompt that was sent, and whose reply was not handed over."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from attrs import evolve

from nairi_async._core.records import frozen
from nairi_async.bots.capabilities import RecallsReplies
from nairi_async.bots.chat_dialogue import open_dialogue
from nairi_async.dialogue import Answer
from nairi_async.errors import BadRequestError, NotFoundError, OutcomeUnknownError, TurnFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nairi_async.bots.chat_record import ChatRecord
    from nairi_async.bots.deadline import Deadline
    from nairi_async.bots.lost_starts import LostStarts
    from nairi_async.bots.sending_times import SendingTimes
    from nairi_async.bots.store import Record
    from nairi_async.clock import Clock
    from nairi_async.dialogue import Dialogues

# Seconds after which a prompt that its dialogue does not show is taken never to have arrived.
_ARRIVAL_TIME: Final = 60.0
_FIRST_WAIT: Final = 0.5
_MAX_WAIT: Final = 8.0

_log = logging.getLogger("nairi_async.bots")


@frozen
class Outcome:
    """What became of a prompt."""

    answer: Answer | None = None
    """Its reply, if there is one to hand over."""
    is_unsent: bool = False
    """Whether it provably does not run, so that it can be asked again."""


class OpenPrompts:
    """Looks up the open prompt of a chat, and waits for its turn to end."""

    def __init__(self, session: Dialogues, target: str, starts: LostStarts, times: SendingTimes, clock: Clock) -> None:
        self._session = session
        self._target = target
        self._starts = starts
        self._times = times
        self._clock = clock

    async def left_behind(self, chat: ChatRecord, deadline: Deadline) -> Answer | TurnFailedError | None:
        """Wait until no turn of the chat runs, before its next prompt; return what came of the turn.

        Raises:
            NairiError: the service could not be asked.
        """
        if not chat.record.is_open:
            return None
        if is_lost_start(chat) and chat.record.prompt is not None:
            self._starts.announce(chat.record.prompt)
            try:
                await deadline.bound(self.find_dialogue(chat))
            except (OutcomeUnknownError, NotFoundError, BadRequestError) as error:
                # The last two: the service has no listing.
                text = "a chat begins a new dialogue, since its first message cannot be found: %.500r"
                _log.warning(text, str(error))
                return None
        if chat.record.dialogue_id is None:
            return None
        try:
            return (await deadline.bound(self.outcome(chat, deadline.options(), is_recovery=False))).answer
        except TurnFailedError as failed:
            return failed

    async def find_dialogue(self, chat: ChatRecord) -> bool:
        """Find the dialogue of a first prompt whose response was lost, and save its id.

        The prompt must have been announced to `LostStarts`.

        Returns:
            Whether there is one; otherwise the prompt provably does not run.

        Raises:
            OutcomeUnknownError: it cannot be decided.
            NairiError: the service could not be asked.
        """
        prompt = chat.record.prompt
        assert prompt is not None  # noqa: S101 - checked by `is_lost_start`
        turn = await self._starts.find(prompt)
        if turn is None:
            return False
        dialogue_id = turn.job_id
        await chat.save_outcome(lambda record: evolve(record, dialogue_id=dialogue_id))
        return True

    async def outcome(self, chat: ChatRecord, options: Mapping[str, Any], *, is_recovery: bool) -> Outcome:
        """Wait until no turn of the chat runs, and return what became of its open prompt.

        A prompt that the dialogue does not show may still arrive, so it is waited for until `_ARRIVAL_TIME` is over;
        so is a dialogue that the service does not know.

        Args:
            chat: Its dialogue is known.
            options: The `timeout=` of the wait.
            is_recovery: Raise an error if the outcome stays unknown; otherwise there is no answer.

        Raises:
            TurnFailedError: the turn has failed.
            OutcomeUnknownError: `is_recovery`, and the service cannot be asked for the reply or does not show it.
            NairiError: reading failed.
        """
        record = chat.record
        dialogue = open_dialogue(self._session, self._target, record)
        if not isinstance(dialogue, RecallsReplies):
            if record.prompt is None or not is_recovery:
                return Outcome()
            raise OutcomeUnknownError("the service cannot be asked for the reply to an earlier message")
        try:
            return await self._recalled(dialogue, record, options, is_recovery=is_recovery)
        except OutcomeUnknownError:
            if is_recovery:
                raise
            # The next prompt waits for the turn if it still runs.
            return Outcome()

    async def _recalled(
        self, dialogue: RecallsReplies, record: Record, options: Mapping[str, Any], *, is_recovery: bool
    ) -> Outcome:
        begun_at, arrival_time, wait = self._clock.monotonic(), _ARRIVAL_TIME, _FIRST_WAIT
        if record.prompt is not None and record.prompt.sent_before is not None:
            arrival_time -= await self._times.seconds_since(record.prompt.sent_before)
        while True:
            is_late = self._clock.monotonic() - begun_at >= arrival_time
            try:
                answer = await dialogue.last_reply(after=record.last_message_id, **options)
            except NotFoundError:
                # A replica may not know yet what another process has begun a moment ago.
                if is_late:
                    raise
            else:
                if answer is not None or record.prompt is None:
                    return Outcome(answer)
                if is_late:
                    return _outcome_of_unseen(record, is_recovery=is_recovery)
            await self._clock.sleep(wait)
            wait = min(2 * wait, _MAX_WAIT)


def _outcome_of_unseen(record: Record, *, is_recovery: bool) -> Outcome:
    """Return what became of a prompt that its dialogue has not shown in time."""
    if is_recovery and record.last_message_id is None:
        # It began the dialogue, so it did arrive.
        raise OutcomeUnknownError("the dialogue does not show the message that began it")
    return Outcome(is_unsent=True)


def is_lost_start(chat: ChatRecord) -> bool:
    """Return whether a first prompt was sent whose dialogue is not known."""
    return chat.record.is_open and chat.record.dialogue_id is None and chat.record.prompt is not None
