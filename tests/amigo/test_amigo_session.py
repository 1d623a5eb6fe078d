from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from amigo_sessions import KEY, SIGNED_IN, session
from support import RawServer, answer
from test_secrecy import UNSENDABLE, frame_locals, shown

from nairi_async import ConfigurationError, SessionClosedError
from nairi_async.amigo import AmigoSession, Limits
from nairi_async.amigo.session import REGIONS

if TYPE_CHECKING:
    from nairi_async.testing.amigo import AmigoSimulator

EMPTY = answer(200, '{"conversations": [], "has_more": false, "continuation_token": null}')
WHO: dict[str, Any] = {"api_key_id": "k", "user_id": "u", "organization_id": "o"}
SECRET = "a-key-that-nobody-may-see"
VARIABLES = ("API_KEY", "API_KEY_ID", "USER_ID", "ORGANIZATION_ID", "BASE_URL")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(f"AMIGO_{name}", raising=False)


@pytest.mark.anyio
async def test_the_environment_is_enough(service: AmigoSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that the vendor's client reads are all that is needed."""
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    async with AmigoSession() as amigo:
        assert [row async for row in amigo.conversations()] == []
        assert repr(amigo) == f"<AmigoSession {service.url}/v1 open>"


@pytest.mark.parametrize("missing", ["API_KEY", "API_KEY_ID", "USER_ID", "ORGANIZATION_ID"])
def test_what_is_missing_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing setting is refused at construction, and both ways to give it are named."""
    for name in VARIABLES[:4]:
        if name != missing:
            monkeypatch.setenv(f"AMIGO_{name}", "x")
    with pytest.raises(ConfigurationError, match=f"AMIGO_{missing}"):
        AmigoSession()


@pytest.mark.parametrize("name", ["api_key_id", "user_id", "organization_id"])
@pytest.mark.parametrize("value", ["", "a b", "a\r\nX: 1", "é", 7, b"x"])
def test_ids_that_cannot_be_sent(name: str, value: Any) -> None:
    """An id that no header can carry is refused at construction."""
    with pytest.raises(ConfigurationError, match=name):
        AmigoSession(KEY, **{**WHO, name: value})


@pytest.mark.parametrize("key", UNSENDABLE.values(), ids=UNSENDABLE)
def test_a_refused_key_is_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error about a key that cannot be sent shows it nowhere, wherever it came from."""
    monkeypatch.setenv("AMIGO_API_KEY", key)
    for given in (key, None):
        with pytest.raises(ConfigurationError) as caught:
            AmigoSession(given, **WHO)
        assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if key in text]


@pytest.mark.parametrize(
    "setting",
    [
        {"base_url": "http://api.amigo.ai"},
        {"base_url": ""},
        {"region": "mars-1"},
        {"region": "eu-central-1", "base_url": "https://api.amigo.ai"},
        {"limits": 3},
        {"idle_timeout": 0},
        {"idle_timeout": "x"},
        {"request_timeout": -1},
        {"retry": 3},
        {"max_connections": 0},
        {"http": object()},
    ],
)
def test_settings_that_cannot_be_used(setting: dict[str, Any]) -> None:
    """A bad setting is refused at construction, without giving the key away."""
    with pytest.raises(ConfigurationError) as caught:
        AmigoSession(SECRET, **{**WHO, **setting})
    assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if SECRET in text]


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "5"])
def test_limits_are_whole_numbers(limit: Any) -> None:
    """A limit is a count of at least one, or none."""
    with pytest.raises(ConfigurationError, match="interact"):
        Limits(interact=limit)


@pytest.mark.parametrize(("region", "url"), REGIONS.items())
def test_regions(region: str, url: str) -> None:
    """A region stands for its own URL."""
    assert f"{url}/v1" in repr(AmigoSession(KEY, region=region, **WHO))


@pytest.mark.parametrize("url", ["https://api.amigo.ai", "https://api.amigo.ai/", "https://api.amigo.ai/v1/"])
def test_a_url_with_or_without_the_prefix(url: str) -> None:
    """Both forms of the URL mean the same."""
    assert "https://api.amigo.ai/v1 not open" in repr(AmigoSession(KEY, base_url=url, **WHO))


@pytest.mark.anyio
async def test_use_outside_of_its_time_says_so() -> None:
    """Before opening, after closing and on another loop nothing is sent, and the error says which."""
    async with RawServer(SIGNED_IN, EMPTY) as server:
        amigo = session(server.url)
        with pytest.raises(SessionClosedError, match="not open yet"):
            await amigo.finish("67d871c23eb91293ecfae8b0")
        async with amigo:

            async def elsewhere() -> None:
                with pytest.raises(SessionClosedError, match="another event loop"):
                    await amigo.finish("67d871c23eb91293ecfae8b0")

            await asyncio.to_thread(asyncio.run, elsewhere())
        with pytest.raises(SessionClosedError, match="is closed"):
            await amigo.create_conversation("67d871c23eb91293ecfae8b0")
        assert server.connections == 0


@pytest.mark.anyio
async def test_a_lent_session_is_used_for_signing_in_too() -> None:
    """Everything goes through the aiohttp session that was lent, which stays open."""
    async with RawServer(SIGNED_IN, EMPTY) as server, aiohttp.ClientSession(headers={"X-Trace": "1"}) as http:
        async with session(server.url, http=http) as amigo:
            assert [row async for row in amigo.conversations()] == []
        assert not http.closed
    assert len(server.seen) == 2
    assert all("X-Trace: 1" in seen.head for seen in server.seen)


def test_a_session_is_not_pickled() -> None:
    """A session holds a key and connections."""
    with pytest.raises(TypeError):
        pickle.dumps(AmigoSession(KEY, **WHO))


@pytest.mark.anyio
async def test_an_unclosed_session_warns() -> None:
    """A session that was opened and forgotten says so."""
    async with RawServer(SIGNED_IN) as server:
        amigo = session(server.url)
        await amigo.__aenter__()
        with pytest.warns(ResourceWarning, match="AmigoSession"):
            amigo.__del__()
        await amigo.aclose()
