"""Chats in PostgreSQL: bots in replicas, each message answered once."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from clusters import AGENT

from nairi_async.bots import AlreadyAskedError, Chats, Record
from nairi_async.cluster import Cluster, PostgresStore
from nairi_async.errors import SessionClosedError
from nairi_async.testing import Say

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from clusters import Field
    from postgres import Postgres

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def replica(field: Field) -> AsyncIterator[Chats]:
    async with field.session() as session, PostgresStore(field.database) as store:
        yield Chats(session, AGENT, store=store)


async def test_a_message_that_two_replicas_receive_is_answered_once(field: Field) -> None:
    """Each of two replicas is given every message, as by a gateway; one asks, the other is told so; dialogues go on."""
    answered: Counter[str] = Counter()

    async def receive(chats: Chats, chat: int, number: int) -> None:
        key = f"{chat}-{number}"
        try:
            async with chats.turn(chat, f"Message {key}", key=key) as reply:
                answered[reply.text] += 1
        except AlreadyAskedError:
            pass

    async with replica(field) as first, replica(field) as second:
        for number in range(3):
            await asyncio.gather(*(receive(chats, chat, number) for chats in (first, second) for chat in range(4)))
    keys = [f"Message {chat}-{number}" for chat in range(4) for number in range(3)]
    assert field.asked == Counter(keys)
    assert answered == Counter(f"Answer to {key}" for key in keys)
    assert len({one.job_id for one in field.simulator.prompts}) == 4


async def test_a_rolling_deployment_answers_each_message_once(field: Field) -> None:
    """The new replica starts while the old one answers, and recovers what it lets go of when it is stopped."""
    field.simulator.agent(AGENT, lambda prompt, _: [Say(f"Answer to {prompt}", after=1)])
    delivered: Counter[str] = Counter()

    async def deliver(_: str, reply: object) -> None:
        delivered[str(getattr(reply, "text", ""))] += 1

    async def ask(chats: Chats, chat: int, text: str) -> None:
        async with chats.turn(chat, text, key=text) as reply:
            await deliver("", reply)

    async with replica(field) as old:
        running = [asyncio.create_task(ask(old, chat, f"Old {chat}")) for chat in range(3)]
        await field.until_asked(3)
        async with replica(field) as new, new.recovering(deliver):
            await asyncio.sleep(0.1)
            # Its orchestrator stops the old one while its turns run.
            for task in running[1:]:
                task.cancel()
            await asyncio.wait(running)
            await asyncio.gather(*(ask(new, chat, f"New {chat}") for chat in range(4)))
            async with asyncio.timeout(100):
                while len(delivered) < 7:  # noqa: ASYNC110 - a platform tells nobody
                    await asyncio.sleep(0.05)
    wanted = Counter([*(f"Old {chat}" for chat in range(3)), *(f"New {chat}" for chat in range(4))])
    assert field.asked == wanted
    assert delivered == Counter(f"Answer to {text}" for text in wanted.elements())


async def test_a_replica_that_lost_its_session_stores_nothing(field: Field, postgres: Postgres) -> None:
    """A chat that was busy when the session was cut cannot be stored any more; other chats can, with a new session."""
    async with PostgresStore(field.database) as store, PostgresStore(field.database) as other:
        await store.acquire("a")
        await store.save("a", Record("dialogue-1", is_open=True))
        with anyio.move_on_after(0.3):
            await other.acquire("a")
            raise AssertionError("two replicas have the chat")
        assert await other.open_names() == ["a"]
        assert await other.dialogue_ids() == {"dialogue-1"}
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'nairi_async'"
        )
        await other.acquire("a")
        assert await other.load("a") == Record("dialogue-1", is_open=True)
        with pytest.raises(SessionClosedError, match="another replica"):
            await store.save("a", Record())
        store.release("a")
        await store.acquire("b")
        await store.save("b", Record())
        store.release("b")
        await other.acquire("b")
        # Taken once more by the same replica, it is let go of at once.
        await other.acquire("b")
        other.release("b")
        await store.acquire("b")
    async with Cluster(field.database):
        pass
