"""Bad input is refused before any request, with a typed error that names what was wrong."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import support
from support import KEY, MESSAGE, PREFIX, RawServer, answer

from nairi_async import ConfigurationError, InvalidArgumentError, NairiError, NairiSession, Polling, RetryPolicy, Turn
from nairi_async.amigo import AmigoSession, Webhooks
from nairi_async.bots import Chats, MemoryStore
from nairi_async.testing import Simulator, VirtualClock
from nairi_async.testing.amigo import AmigoSimulator
from nairi_async.web import EventStreams

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Calls = list[Callable[[NairiSession, Any], Awaitable[Any]]]

TURN = Turn("job_1", "cmsg_1")
ELEVEN = [f"att_{n}" for n in range(11)]


# Construction.


@pytest.mark.parametrize(
    "key", [None, "", " ", "\n", "a b", "a\n", "a\tb", "a\x00", "ключ", "a\u00a0", 7, b"a", ["a"], True]
)
def test_bad_keys(key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is missing, blank, not a string or not fit for a header is refused at construction."""
    monkeypatch.delenv("NAIRI_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="API key"):
        NairiSession(key)


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n"])
def test_bad_keys_in_the_environment(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's key is checked like an argument."""
    monkeypatch.setenv("NAIRI_API_KEY", key)
    with pytest.raises(ConfigurationError, match="API key"):
        NairiSession()


def test_an_empty_key_is_not_replaced_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty key is a mistake, and is not replaced by the environment's."""
    monkeypatch.setenv("NAIRI_API_KEY", KEY)
    with pytest.raises(ConfigurationError, match="no API key"):
        NairiSession("")


AMIGO: dict[str, Any] = {"api_key": KEY, "api_key_id": "id", "user_id": "user", "organization_id": "acme"}
PARTS: dict[str, tuple[Callable[[Any], Any], tuple[Any, ...]]] = {
    "clock": (lambda bad: NairiSession(KEY, clock=bad), (0, "", object(), VirtualClock)),
    "amigo clock": (lambda bad: AmigoSession(**AMIGO, clock=bad), (3,)),
    "region": (lambda bad: AmigoSession(**AMIGO, region=bad), (3, [])),
    "tokens": (lambda bad: AmigoSession(**AMIGO, tokens=bad), (3, dict[str, str]())),
    "store": (lambda bad: Chats(NairiSession(KEY), "a", store=bad), (3, "chats.sqlite", MemoryStore)),
    "chats clock": (lambda bad: Chats(NairiSession(KEY), "a", clock=bad), (3,)),
    "streams clock": (lambda bad: EventStreams(clock=bad), (3,)),
    "signals": (lambda bad: EventStreams(signals=bad), (15, "SIGTERM", [0])),
    "webhooks clock": (lambda bad: Webhooks("secret", clock=bad), (3,)),
    "simulator clock": (lambda bad: Simulator(clock=bad), (3,)),
    "quirks": (lambda bad: Simulator(quirks=bad), (3, None)),
    "agents": (lambda bad: Simulator(agents=bad), (3, ["my-agent"])),
    "faults": (lambda bad: Simulator(faults=bad), (3, 0)),
    "amigo faults": (lambda bad: AmigoSimulator(faults=bad), (3, 0)),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_another_kind(name: str) -> None:
    """What is no clock, no store, or the class of one, is refused when it is given, and not when it is first used."""
    make, values = PARTS[name]
    for bad in values:
        with pytest.raises(ConfigurationError, match=f"{name.rpartition(' ')[2]} must be"):
            make(bad)


BAD_URLS: list[Any] = [
    "",
    " ",
    "api.nairi.ai",
    "//api.nairi.ai",
    "/api/public/v1",
    "https://",
    "https:///path",
    "https://:443",
    "ftp://api.nairi.ai",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "https://user@api.nairi.ai",
    "https://user:password@api.nairi.ai",
    "https://@api.nairi.ai",
    "https://api.nairi.ai?x=1",
    "https://api.nairi.ai#x",
    "https://api.nairi.ai:port",
    "https://api.nairi.ai:99999",
    "https://[::1",
    "https://api nairi.ai",
    "https://api\x00.nairi.ai",
    "https://a..b",
    f"https://{'a' * 64}.example",
    "http://api.nairi.ai",
    "http://10.0.0.1",
    "http://0.0.0.0",
    "http://localhost.evil.example",
    "http://127.0.0.1.evil.example",
    "http://127.0.0.1@evil.example",
    "http://evil.example\\@localhost",
    "http://notlocalhost",
    "http://[::2]",
    b"https://api.nairi.ai",
    7,
    False,
    0,
    ["https://api.nairi.ai"],
]


@pytest.mark.parametrize("url", BAD_URLS, ids=repr)
def test_bad_base_urls(url: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base URL that is not https with a host, or plain http to another machine, is refused at construction."""
    monkeypatch.delenv("NAIRI_BASE_URL", raising=False)
    with pytest.raises(ConfigurationError):
        NairiSession(KEY, base_url=url)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "api.localhost", "127.0.0.1", "127.8.8.8:1", "[::1]:80"]
)
def test_plain_http_is_for_this_machine(host: str) -> None:
    """Plain http to a loopback address is allowed."""
    assert NairiSession(KEY, base_url=f"http://{host}")


@pytest.mark.parametrize(
    "settings",
    [
        {"request_timeout": 0},
        {"request_timeout": -1},
        {"request_timeout": math.nan},
        {"request_timeout": math.inf},
        {"request_timeout": "30"},
        {"request_timeout": True},
        {"request_timeout": None},
        {"request_timeout": timedelta(0)},
        {"request_timeout": 10**400},
        {"max_connections": 0},
        {"max_connections": -1},
        {"max_connections": 1.5},
        {"max_connections": "1"},
        {"max_connections": True},
        {"max_connections": None},
        {"requests_per_second": 0},
        {"requests_per_second": -1},
        {"requests_per_second": math.nan},
        {"requests_per_second": math.inf},
        {"requests_per_second": "1"},
        {"requests_per_second": True},
        {"requests_per_second": timedelta(seconds=1)},
        {"retry": 3},
        {"retry": RetryPolicy},
        {"retry": Polling()},
        {"polling": 2.0},
        {"polling": RetryPolicy()},
        {"http": "https://api.nairi.ai"},
        {"http": ...},
    ],
    ids=repr,
)
def test_bad_settings(settings: dict[str, Any]) -> None:
    """A setting of the wrong type or size is refused at construction."""
    with pytest.raises(ConfigurationError):
        NairiSession(KEY, **settings)


@pytest.mark.parametrize("name", ["delay", "first", "fraction", "maximum", "settle"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", None, True])
def test_bad_polling(name: str, value: Any) -> None:
    """`Polling` takes durations and a fraction, and nothing else."""
    with pytest.raises(ConfigurationError):
        Polling(**{name: value})


# Calls. Each is refused before any request.

BAD_PROMPTS: list[Any] = ["", " ", "\n\t", "\u2003", None, 7, b"Hello", ["Hello"]]
BAD_IDS: list[Any] = [
    "",
    ".",
    "..",
    " ",
    "a b",
    "a\n",
    "a\r\nb",
    "a\x00",
    "a\x7f",
    "a\u0085",
    "a\ud800",
    None,
    7,
    b"a",
    ["a"],
]
BAD_FLAGS: list[Any] = ["yes", 1, 0, None, []]
BAD_TIMEOUTS: list[Any] = [-1, math.nan, "soon", True, timedelta(seconds=-1), 10**400, [1]]
BAD_FILES: list[Any] = [
    ELEVEN,
    "att_1",
    b"att_1",
    {"att_1": 1},
    7,
    None,
    ["att_1", ""],
    ["att_1", 7],
    ["a b"],
    [None],
]


WITH_PROMPT: Calls = [
    lambda nairi, prompt: nairi.start("my-agent", prompt),
    lambda nairi, prompt: nairi.continue_("job_1", prompt),
    lambda nairi, prompt: nairi.ask("my-agent", prompt),
    lambda nairi, prompt: nairi.conversation("my-agent").ask(prompt),
    lambda nairi, prompt: anext(nairi.resume("job_1").send(prompt)),
]
WITH_ID: Calls = [
    lambda nairi, name: nairi.start(name, "Hello"),
    lambda nairi, name: nairi.continue_(name, "Hello"),
    lambda nairi, name: nairi.message(name),
    lambda nairi, name: nairi.messages(name),
    lambda nairi, name: nairi.ask(name, "Hello"),
    lambda nairi, name: nairi.conversation(name).ask("Hello"),
    lambda nairi, name: nairi.resume(name).ask("Hello"),
    lambda nairi, name: anext(nairi.watch(name)),
]
WITH_FILES: Calls = [
    lambda nairi, files: nairi.start("my-agent", "Hello", attachment_ids=files),
    lambda nairi, files: nairi.continue_("job_1", "Hello", attachment_ids=files),
    lambda nairi, files: nairi.ask("my-agent", "Hello", attachment_ids=files),
    lambda nairi, files: anext(nairi.resume("job_1").send("Hello", attachment_ids=files)),
]
WITH_FLAG: Calls = [
    lambda nairi, flag: nairi.start("my-agent", "Hello", ask_mode=flag),
    lambda nairi, flag: nairi.ask("my-agent", "Hello", ask_mode=flag),
    lambda nairi, flag: nairi.conversation("my-agent", ask_mode=flag).ask("Hello"),
    lambda nairi, flag: nairi.messages("job_1", progress=flag),
    lambda nairi, flag: anext(nairi.watch(TURN, follow=flag)),
    lambda nairi, flag: anext(nairi.watch(TURN, progress=flag)),
    lambda nairi, flag: anext(nairi.resume("job_1").send("Hello", progress=flag)),
]
WITH_TIMEOUT: Calls = [
    lambda nairi, timeout: nairi.wait(TURN, timeout=timeout),
    lambda nairi, timeout: nairi.reply(TURN, timeout=timeout),
    lambda nairi, timeout: nairi.ask("my-agent", "Hello", timeout=timeout),
    lambda nairi, timeout: anext(nairi.watch(TURN, timeout=timeout)),
    lambda nairi, timeout: anext(nairi.resume("job_1").send("Hello", timeout=timeout)),
]
WITH_TURN: Calls = [
    lambda nairi, turn: nairi.wait(turn),
    lambda nairi, turn: nairi.reply(turn),
]
REFUSED = [
    *((call, value) for call in WITH_PROMPT for value in BAD_PROMPTS),
    *((call, value) for call in WITH_ID for value in BAD_IDS),
    *((call, value) for call in WITH_FILES for value in BAD_FILES),
    *((call, value) for call in WITH_FLAG for value in BAD_FLAGS),
    *((call, value) for call in WITH_TIMEOUT for value in BAD_TIMEOUTS),
    *((call, value) for call in WITH_TURN for value in ["x", None, 123, ("job_1", "cmsg_1"), Turn]),
    *((lambda nairi, after: anext(nairi.watch(TURN, after=after)), value) for value in ["", 7, "a b"]),
    *((lambda nairi, target: anext(nairi.watch(target)), value) for value in [123, ("job_1", "cmsg_1"), Turn]),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("call", "value"), REFUSED)
async def test_bad_arguments_are_refused_before_any_request(call: Any, value: Any) -> None:
    """An invalid argument is a typed error, and no request is sent."""
    async with RawServer(answer(200, MESSAGE)) as server, support.session(server.url) as nairi:
        with pytest.raises(InvalidArgumentError) as caught:
            await call(nairi, value)
        assert server.connections == 0
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 500


@pytest.mark.anyio
@pytest.mark.parametrize("job_id", [None, 7, "", "..", "a b"])
async def test_a_turn_with_a_bad_id_is_refused_before_any_request(job_id: Any) -> None:
    """A turn that was constructed with an invalid id is refused."""
    async with RawServer(answer(200, MESSAGE)) as server, support.session(server.url) as nairi:
        for turn in (Turn(job_id, "cmsg_1"), Turn("job_1", job_id)):
            for call in (nairi.wait, nairi.reply, lambda turn: anext(nairi.watch(turn))):
                with pytest.raises(NairiError):
                    await call(turn)
        assert server.connections == 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("a/b", "a%2Fb"),
        ("../agents", "..%2Fagents"),
        ("..%2Fagents", "..%252Fagents"),
        ("%2e%2e", "%252e%252e"),
        ("a?b=c", "a%3Fb%3Dc"),
        ("a#b", "a%23b"),
        ("a;b", "a%3Bb"),
        ("a&b", "a%26b"),
        ("a\\b", "a%5Cb"),
        ("a:b@c", "a%3Ab%40c"),
        ("a+b", "a%2Bb"),
        ("...", "..."),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ("\u202e", "%E2%80%AE"),
        ("presmihaylov/claudecontrol", "presmihaylov%2Fclaudecontrol"),
    ],
)
async def test_ids_stay_one_segment_of_the_path(name: str, encoded: str) -> None:
    """An id is percent-encoded as one segment, with any characters."""
    timeline, started = answer(200, b'{"messages":[]}'), answer(201, support.STARTED)
    async with RawServer(answer(200, MESSAGE), timeline, started) as server, support.session(server.url) as nairi:
        await nairi.message(name)
        await nairi.messages(name)
        await nairi.continue_(name, "Hello")
        assert server.lines == [
            f"GET {PREFIX}/messages/{encoded} HTTP/1.1",
            f"GET {PREFIX}/conversations/{encoded}/messages HTTP/1.1",
            f"POST {PREFIX}/conversations/{encoded}/continue HTTP/1.1",
        ]


@pytest.mark.anyio
async def test_ten_attachments_of_any_iterable_are_accepted() -> None:
    """Ten ids are allowed, from a generator as well; they arrive in order."""
    async with RawServer(answer(201, support.STARTED)) as server, support.session(server.url) as nairi:
        await nairi.start("my-agent", "Hello", attachment_ids=(name for name in ELEVEN[:10]))
        assert json.loads(server.seen[0].body)["attachment_ids"] == ELEVEN[:10]
