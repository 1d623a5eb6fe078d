"""Asking one prompt, with the chat's record in step with what is known about it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from attrs import evolve

from nairi_async._core import leaving
from nairi_async._core.service_session import ServiceSession
from nairi_async.bots.chat_dialogue import continued_id
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
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nairi_async.bots.chat_record import ChatRecord
    from nairi_async.bots.store import Record
    from nairi_async.clock import Clock
    from nairi_async.dialogue import Answer, Dialogue, Dialogues

# Seconds between reads of a new dialogue's id. They cost nothing but a wake-up, and end with the first response.
_ID_INTERVAL: Final = 0.1


class PromptRunner:
    """Asks prompts, and saves in each chat's record whether its prompt may be running."""

    def __init__(self, session: Dialogues, clock: Clock) -> None:
        self._session = session
        self._clock = clock

    async def run(
        self, chat: ChatRecord, with_prompt: Record, dialogue: Dialogue, call: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Save that the prompt may be running, ask it, and return the reply.

        If it provably did not run, the record is saved as it was before, so that its key may be used again.
        """
        before, after = chat.record, with_prompt
        await chat.save_or_restore(with_prompt)
        with leaving.watched() as sent:
            try:
                async with background(self._save_id(chat, dialogue)):
                    return await call()
            except asyncio.CancelledError:
                # Other libraries' sessions do not say whether it was sent.
                if isinstance(self._session, ServiceSession) and not sent.has_left:
                    after = before
                raise
            except TurnFailedError as failed:
                after = with_prompt.with_outcome(failed)
                raise
            except NairiError as error:
                if _did_not_run(error):
                    # Whether a dialogue exists whose first turn is void is not known: the next prompt settles it first.
                    is_vague = isinstance(error, InteractionVoidError) and before.dialogue_id is None
                    after = evolve(before, is_open=before.is_open or is_vague)
                raise
            finally:
                await chat.save_outcome(evolve(after, dialogue_id=continued_id(dialogue)))

    async def _save_id(self, chat: ChatRecord, dialogue: Dialogue) -> None:
        """Save a new dialogue's id as soon as it is known, which is long before the reply."""
        while dialogue.id is None:
            await self._clock.sleep(_ID_INTERVAL)
        await chat.save_outcome(evolve(chat.record, dialogue_id=dialogue.id))


def _did_not_run(error: NairiError) -> bool:
    """Whether the error proves that the prompt did not run, or that the service undid it."""
    if error.turn is not None or isinstance(error, OutcomeUnknownError):
        return False
    is_unsent = isinstance(error, ConnectionFailedError) and not error.sent
    return is_unsent or isinstance(
        error, InteractionVoidError | InvalidArgumentError | SessionClosedError | StatusError
    )
