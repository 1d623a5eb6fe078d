"""Many users over one session: handles, tokens that are kept, the list of users, services by name."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest
from amigo_sessions import session

from nairi_async import AuthenticationError, ConfigurationError, ConflictError, InvalidArgumentError, NotFoundError
from nairi_async.amigo import AmigoToken, Limits
from nairi_async.testing import VirtualClock
from nairi_async.testing.amigo import AmigoQuirks, AmigoSimulator, Hang, Speak

pytestmark = pytest.mark.anyio


class Kept:
    """A store of tokens in a dictionary."""

    def __init__(self) -> None:
        self.tokens: dict[str, AmigoToken] = {}

    async def load(self, user_id: str, /) -> AmigoToken | None:
        return self.tokens.get(user_id)

    async def save(self, user_id: str, token: AmigoToken, /) -> None:
        self.tokens[user_id] = token


async def test_200_visitors_are_all_served_at_the_limit_of_5_a_minute() -> None:
    """One session serves them all: one queue of sign-ins and of conversations, and no request that is refused."""
    clock, visitors = VirtualClock(), [f"visitor-{number}" for number in range(200)]
    quirks = AmigoQuirks(limits="organization", token_lifetime=86_400)
    async with (
        AmigoSimulator(users=["simulated-user", *visitors], clock=clock, quirks=quirks) as service,
        session(service.url, clock=clock, limits=Limits()) as amigo,
    ):
        dialogues = [amigo.as_user(visitor).conversation(service.service_id) for visitor in visitors]
        replies = await asyncio.gather(*(dialogue.ask(f"I am {n}") for n, dialogue in enumerate(dialogues)))
        assert all(reply.text for reply in replies)
        assert {(asked.user_id, asked.message) for asked in service.asked} == {
            (visitor, f"I am {n}") for n, visitor in enumerate(visitors)
        }
        assert amigo.stats.requests <= 450
        assert clock.monotonic() <= 41 * 61


async def test_users_share_connections_and_close_with_the_session() -> None:
    """Streams of all users count together, and closing the session ends them all."""
    clock = VirtualClock()
    async with AmigoSimulator([Speak("a"), Hang()], users=["a", "b"], clock=clock) as service:
        amigo = session(service.url, clock=clock, max_connections=1, user_id="a")
        async with amigo:
            stream = await amigo.as_user("a").create_conversation(service.service_id)
            waiting = asyncio.ensure_future(amigo.as_user("b").create_conversation(service.service_id).reply())
            for _ in range(100):
                await asyncio.sleep(0)
            assert [asked.user_id for asked in service.asked] == ["a"]
            assert amigo.as_user("b").user_id == "b"
        with pytest.raises(Exception, match="closed"):
            await waiting
        assert "closed" in repr(stream)


async def test_a_user_signs_in_once_whatever_handles_there_are(clock: VirtualClock) -> None:
    """A token outlives its handle; an unknown user is refused, and nobody else is."""
    async with (
        AmigoSimulator(users=["simulated-user", "v"], clock=clock) as service,
        session(service.url, clock=clock) as amigo,
    ):
        for _ in range(3):
            async for _row in amigo.as_user("v").conversations():
                pass
        assert service.sign_ins == 1
        with pytest.raises(AuthenticationError):
            await amigo.as_user("stranger").ask(service.service_id, "Hi")
        assert (await amigo.ask(service.service_id, "Hi")).text
        with pytest.raises(InvalidArgumentError, match="user_id"):
            amigo.as_user("two words")


async def test_tokens_are_kept_over_a_restart() -> None:
    """With a store, the next session signs nobody in; a token that expired or was refused is not used again."""
    clock, store = VirtualClock(), Kept()
    async with AmigoSimulator(users=["simulated-user", "v"], clock=clock) as service:
        for _ in range(2):
            async with session(service.url, clock=clock, tokens=store) as amigo:
                await amigo.services()
                await amigo.as_user("v").services()
            assert service.sign_ins == 2
        service.expire_tokens()
        async with session(service.url, clock=clock, tokens=store) as amigo:
            await amigo.as_user("v").services()
        assert service.sign_ins == 3
        clock.advance(4000)
        async with session(service.url, clock=clock, tokens=store) as amigo:
            await amigo.as_user("v").services()
        assert service.sign_ins == 4
        assert store.tokens["v"].value not in repr(store.tokens)


@pytest.mark.parametrize("wrong", ["load", "save", "a text", "text", 7, datetime(2999, 1, 1), datetime.min])  # noqa: DTZ001, DTZ901
async def test_a_store_that_fails_costs_a_sign_in_and_nothing_else(
    wrong: Any, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the store is logged, without its text, which may quote a token; the call goes on."""

    class Broken(Kept):
        async def load(self, user_id: str, /) -> Any:
            if wrong == "load":
                raise OSError(f"the row ({user_id}, token)")
            return "a text" if wrong == "a text" else AmigoToken("a token", wrong) if wrong != "save" else None

        async def save(self, user_id: str, token: AmigoToken, /) -> None:
            if wrong == "save":
                raise OSError(f"the row (user, {token.value})")
            await super().save(user_id, token)

    async with AmigoSimulator(clock=clock) as service, session(service.url, clock=clock, tokens=Broken()) as amigo:
        assert await amigo.services()
    assert "token store" in caplog.text
    assert ("OSError in " in caplog.text) is (wrong in {"load", "save"})
    assert "the row" not in caplog.text
    with pytest.raises(ConfigurationError, match="TokenStore"):
        session("http://localhost:1", tokens={})


async def test_no_error_shows_the_token_of_another_user() -> None:
    """Texts of the service are quoted without the tokens of all users of the session."""
    async with AmigoSimulator(users=["simulated-user", "v"], clock=(clock := VirtualClock())) as service:
        store = Kept()
        async with session(service.url, clock=clock, tokens=store) as amigo:
            await amigo.as_user("v").services()
            secret = store.tokens["v"].value
            service.refuse(403, f"not with {secret} at all")
            with pytest.raises(Exception, match="not with") as caught:
                await amigo.services()
            assert secret not in str(caught.value)
            service.refuse(403, f"cut: {secret[:60]}")
            with pytest.raises(Exception, match="cut") as caught:
                await amigo.services()
            assert secret[:60] not in str(caught.value)


async def test_users_are_created_found_updated_and_deleted(clock: VirtualClock) -> None:
    """The whole life of a visitor."""
    async with AmigoSimulator(clock=clock) as service, session(service.url, clock=clock) as amigo:
        made = await amigo.create_user(
            "ann@example.com",
            first_name="Ann",
            last_name="Lee",
            role_name="DefaultUserRole",
            variables={"plan": "x"},
        )
        [found] = await amigo.users(email="ann@example.com")
        assert (found.user_id, found.first_name, found.nonsensitive_variables) == (
            made.user_id,
            "Ann",
            {"plan": "x"},
        )
        await amigo.update_user(made.user_id, first_name="Anne", preferred_language="deu", timezone=None)
        visitor = amigo.as_user(made.user_id)
        await visitor.ask(service.service_id, "Hi")
        [found] = [user async for user in amigo.users(user_id=made.user_id)]
        assert (found.first_name, found.preferences) == ("Anne", {"preferred_language": "deu", "timezone": None})
        assert found.user_stats is not None
        assert found.user_stats.num_conversations == 1
        assert found.user_stats.last_message_time is not None
        with pytest.raises(ConflictError):
            await amigo.create_user("ann@example.com", first_name="A", last_name="L", role_name="DefaultUserRole")
        await amigo.delete_user(made.user_id)
        assert await amigo.users(email="ann@example.com") == []
        with pytest.raises(NotFoundError):
            await amigo.delete_user(made.user_id)
        with pytest.raises(NotFoundError):
            await amigo.update_user(made.user_id, last_name="X")
        for wrong in ({}, {"first_name": " "}, {"audio_keyterms": ["a"] * 21}):
            with pytest.raises(InvalidArgumentError):
                await amigo.update_user("v", **wrong)
        with pytest.raises(InvalidArgumentError, match="name of a variable"):
            await amigo.create_user("a@b.c", first_name="A", last_name="L", role_name="R", variables={"Plan": "x"})


async def test_services_are_found_by_name() -> None:
    """All pages are read; each row is typed."""
    async with AmigoSimulator(clock=(clock := VirtualClock())) as service:
        ids = [service.service(name=f"Service {number}") for number in range(45)]
        async with session(service.url, clock=clock) as amigo:
            [found] = await amigo.services(name="Service 44")
            assert (found.id, found.name, found.is_active) == (ids[44], "Service 44", True)
            assert [one.id async for one in amigo.services(id=ids[3])] == [ids[3]]
            assert len(await amigo.services()) == 46
            assert await amigo.services(name="None") == []
            assert await amigo.services(is_active=False) == []
            with pytest.raises(InvalidArgumentError):
                amigo.services(page_size=21)


async def test_short_calls_do_not_wait_for_streams(clock: VirtualClock) -> None:
    """Streams hold all of `max_connections`, and a conversation can still be listed and finished."""
    async with (
        AmigoSimulator([Speak("a"), Hang()], clock=clock, quirks=AmigoQuirks(one_unfinished=False)) as service,
        session(service.url, clock=clock, max_connections=2) as amigo,
    ):
        held = [await amigo.create_conversation(service.service_id) for _ in range(2)]
        assert amigo.stats.free_connections == 0
        async with asyncio.timeout(10):
            assert len([row async for row in amigo.conversations()]) == 2
        for stream in held:
            await stream.aclose()


async def test_a_token_that_expires_while_a_stream_waits_for_a_connection_is_renewed(clock: VirtualClock) -> None:
    """Streams wait for minutes behind each other; each is sent with a token that is still valid."""
    quirks = AmigoQuirks(token_lifetime=150, one_unfinished=False)
    async with (
        AmigoSimulator([Speak("a b", every=100)], clock=clock, quirks=quirks) as service,
        session(service.url, clock=clock, max_connections=1) as amigo,
    ):
        streams = [amigo.create_conversation(service.service_id) for _ in range(5)]
        assert [reply.text for reply in await asyncio.gather(*(stream.reply() for stream in streams))] == ["a b"] * 5
        assert amigo.stats.requests == 5 + service.sign_ins
