"""Asks one prompt, and keeps the record of its chat in step."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from attrs import evolve

from nairi_async.bots.capabilities import AnnouncesId, KnowsWhetherRunning
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
    from nairi_async.dialogue import Answer, Dialogue


async def run_prompt(
    chat: ChatRecord, with_prompt: Record, dialogue: Dialogue, call: Callable[[], Awaitable[Answer]]
) -> Answer:
    """Save that a prompt may be running, ask it, and return the reply.

    If it provably did not run, the record is saved as it was before, so that its key may be used again.
    """
    before, after = chat.record, with_prompt
    await chat.save_or_restore(with_prompt)
    try:
        async with background(_save_id(chat, dialogue)):
            return await call()
    except asyncio.CancelledError:
        # Without `may_be_running`, whether it was sent is not known.
        if isinstance(dialogue, KnowsWhetherRunning) and not dialogue.may_be_running:
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


async def _save_id(chat: ChatRecord, dialogue: Dialogue) -> None:
    """Save a new dialogue's id as soon as it is known, which is long before the reply."""
    if dialogue.id is None and isinstance(dialogue, AnnouncesId):
        dialogue_id = await dialogue.wait_for_id()
        await chat.save_outcome(evolve(chat.record, dialogue_id=dialogue_id))


def _did_not_run(error: NairiError) -> bool:
    """Whether the error proves that the prompt did not run, or that the service undid it."""
    if error.turn is not None or isinstance(error, OutcomeUnknownError):
        return False
    is_unsent = isinstance(error, ConnectionFailedError) and not error.sent
    return is_unsent or isinstance(
        error, InteractionVoidError | InvalidArgumentError | SessionClosedError | StatusError
    )
