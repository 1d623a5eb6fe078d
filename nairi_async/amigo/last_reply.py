"""The reply to the last message of a conversation, for a process that did not send it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nairi_async.amigo.checks import identifier
from nairi_async.amigo.finishing import ConversationStatus, read_status, waits
from nairi_async.amigo.models import AmigoReply
from nairi_async.amigo.recovery import created_at, reply_of
from nairi_async.errors import InteractionUnknownError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from nairi_async.amigo.api import Api
    from nairi_async.amigo.conversation_locks import ConversationLock
    from nairi_async.amigo.models import AmigoMessage


def reply_ids(after: AmigoReply | str | None) -> frozenset[str]:
    """Return the ids by which a reply is recognised, or the one that is given.

    Raises:
        InvalidArgumentError: it is no id, or a reply of which the service has named nothing.
    """
    if after is None:
        return frozenset()
    if not isinstance(after, AmigoReply):
        return frozenset((identifier("after", after),))
    ids = frozenset(id_ for id_ in (after.interaction_id, after.user_message_id, after.message_id) if id_)
    if not ids:
        raise InvalidArgumentError("after is a reply of which the service has named no message")
    return ids


async def find_last_reply(calls: Api, lock: ConversationLock, after: frozenset[str]) -> AmigoReply | None:
    """Return the reply of the newest interaction of a conversation, unless one of its ids is in `after`.

    An interaction may be listed only when it has ended. So where the newest one is known already, or has no reply, the
    messages are read again, for as long as the service may be silent, or until the conversation is over. What this
    session has seen decides nothing: another process may have spoken since.

    Raises:
        InteractionUnknownError: after that time there is none, and an interaction may still be running.
    """
    assert lock.id is not None  # noqa: S101 - checked by the caller
    clock, conversation_id, is_over = calls.executor.clock, lock.id, lock.is_over
    deadline = clock.monotonic() + calls.idle_timeout
    for wait in waits():
        try:
            newest = await _newest(calls, conversation_id)
        except NotFoundError:
            lock.finished()
            return None
        is_new = bool(newest) and after.isdisjoint(_ids(newest))
        reply = reply_of(conversation_id, newest) if is_new else None
        if reply is not None and (reply.message_id is not None or is_over):
            return reply
        if is_over:
            return None
        if clock.monotonic() >= deadline:
            what = "no newer message is listed" if reply is None else "the newest message has no reply"
            error = InteractionUnknownError(f"{what}, and an interaction may still be running: look again later")
            error.conversation_id = conversation_id
            raise error
        await calls.sleep(min(wait, deadline - clock.monotonic()))
        # Before the messages are read once more: what had ended by then is listed.
        is_over = await _is_over(calls, lock, conversation_id)
    raise AssertionError("unreachable")  # pragma: no cover


async def _newest(calls: Api, conversation_id: str) -> list[AmigoMessage]:
    """Return the messages of the newest interaction, oldest first."""
    page = await calls.messages(conversation_id, [("sort_by", "-created_at"), ("limit", "50")])
    rows: list[AmigoMessage] = sorted(page.rows, key=created_at)
    return [row for row in rows if row.interaction_id == rows[-1].interaction_id]


async def _is_over(calls: Api, lock: ConversationLock, conversation_id: str) -> bool:
    if not lock.is_over:
        status = await read_status(calls, conversation_id)
        if status in {ConversationStatus.FINISHED, ConversationStatus.GONE}:
            lock.finished()
    return lock.is_over


def _ids(rows: list[AmigoMessage]) -> set[str]:
    return {id_ for row in rows for id_ in (row.id, row.interaction_id) if id_}
