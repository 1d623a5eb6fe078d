"""Finishing a conversation: what the service says of it, and waiting for a call that may still run in it."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from nairi_async.errors import BadRequestError, ConflictError, NotFoundError, OutcomeUnknownError, PermissionDeniedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nairi_async.amigo.api import Api
    from nairi_async.amigo.conversation_locks import ConversationLock
    from nairi_async.amigo.models import ConversationInfo

# Seconds between two requests for the same thing: most limits are 5 to 20 requests a minute for the organisation.
_FIRST_WAIT: Final = 2.0
_LONGEST_WAIT: Final = 15.0


def waits() -> Iterator[float]:
    """Return seconds to wait between attempts, without end."""
    wait = _FIRST_WAIT
    while True:
        yield wait
        wait = min(_LONGEST_WAIT, wait * 1.5)


class ConversationStatus(Enum):
    """What the service says of a conversation."""

    OPEN = "open"
    FINISHED = "finished"
    GONE = "gone"
    UNKNOWN = "unknown"
    """The user may not look, although the user may speak."""


async def read_status(
    calls: Api,
    conversation_id: str,
) -> ConversationStatus:
    """Ask the service whether a conversation is finished."""
    try:
        page = await calls.conversations([("id", conversation_id), ("limit", "1")])
        rows: list[ConversationInfo] = [row for row in page.rows if row.id == conversation_id]
        if rows:
            return ConversationStatus.FINISHED if rows[0].is_finished is True else ConversationStatus.OPEN
        # A list may lag behind.
        await calls.messages(conversation_id, [("limit", "1")])
    except NotFoundError:
        return ConversationStatus.GONE
    except PermissionDeniedError:
        return ConversationStatus.UNKNOWN
    return ConversationStatus.OPEN


async def explain_conflict(
    calls: Api,
    lock: ConversationLock,
    conversation_id: str,
    conflict: ConflictError,
) -> None:
    """Return if the conversation is open, so that a call of it must be running; otherwise raise the conflict."""
    status = await read_status(calls, conversation_id)
    if status in {ConversationStatus.FINISHED, ConversationStatus.GONE}:
        lock.resolve().finished()
    if status is not ConversationStatus.OPEN:
        raise conflict


async def finish(
    calls: Api,
    lock: ConversationLock,
    conversation_id: str,
) -> None:
    """Finish a conversation whose turn it is, waiting up to the idle timeout for a call that may be running in it.

    Raises:
        ConflictError: it was already finished, or a call of it still runs.
        BadRequestError: it has no interactions.
        NotFoundError: it is gone.
        OutcomeUnknownError: the request left, and its response did not come back.
    """
    clock = calls.executor.clock
    deadline = clock.monotonic() + calls.idle_timeout
    lock = lock.resolve()
    for wait in waits():
        try:
            await calls.finish(conversation_id)
        except ConflictError as conflict:
            await explain_conflict(calls, lock, conversation_id, conflict)
            if clock.monotonic() >= deadline:
                raise
        except OutcomeUnknownError:
            lock.finish_was_sent = True
            raise
        except NotFoundError:
            lock.finished()
            raise
        else:
            lock.finished()
            return
        await calls.sleep(min(wait, deadline - clock.monotonic()))


async def finish_or_be_finished(
    calls: Api,
    lock: ConversationLock,
    conversation_id: str,
) -> None:
    """Finish a conversation; one that is finished or gone, or holds nothing, needs nothing more.

    Raises:
        ConflictError: a call of it still runs.
        NairiError: whether it is finished is not known.
    """
    lock = lock.resolve()
    if lock.finish_was_sent:
        status = await read_status(calls, conversation_id)
        if status in {ConversationStatus.FINISHED, ConversationStatus.GONE}:
            lock.finished()
            return
    try:
        await finish(calls, lock, conversation_id)
    except NotFoundError:
        pass
    except ConflictError:
        if not lock.is_over:
            raise
    except BadRequestError:
        # It has no interactions: there is nothing to finish, if that is true.
        status = await read_status(calls, conversation_id)
        if status in {ConversationStatus.FINISHED, ConversationStatus.GONE}:
            lock.finished()
        elif (await calls.messages(conversation_id, [("limit", "1")])).rows:
            raise
