"""Proxies and TLS, with a real proxy and real certificates: `proxy=`, `ssl=`, `trust_env=` of both sessions."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import amigo_sessions
import pytest
import support
import trustme
from amigo_sessions import SIGNED_IN
from support import KEY, MESSAGE, RawServer, answer
from test_secrecy import frame_locals, shown

from nairi_async import ConfigurationError, ConnectionFailedError, NairiError, NairiSession, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from nairi_async.amigo import AmigoSession

PASSWORD = "s3cret%/word"
QUOTED = "s3cret%25%2Fword"
NO_RETRY = RetryPolicy(attempts=1)
LISTED = answer(200, '{"conversations": [], "has_more": false}')

pytestmark = pytest.mark.anyio


class Proxy:
    """An HTTP proxy: tunnels by CONNECT, or forwards requests for `http://` URLs."""

    def __init__(self, *, password: str | None = None) -> None:
        self._expected = None if password is None else base64.b64encode(f"user:{password}".encode()).decode()
        self.heads: list[str] = []

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads.append(head)
            if self._expected is not None and f"Proxy-Authorization: Basic {self._expected}\r\n" not in head:
                writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                writer.close()
                return
            method, target, _ = head.split(" ", 2)
            authority = target if method == "CONNECT" else target.split("/")[2]
            host, port = authority.rsplit(":", 1)
            to_server, from_proxy = await asyncio.open_connection(host, int(port))
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                from_proxy.write(head.replace(f"http://{authority}", "", 1).encode("latin-1"))
            await asyncio.gather(_copy(reader, from_proxy), _copy(to_server, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take the machine's own proxies out of the environment."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return iter([None])


async def read(nairi: NairiSession) -> str:
    return (await nairi.message("cmsg_1")).content


async def listed(amigo: AmigoSession) -> list[Any]:
    return [row async for row in amigo.conversations()]


async def test_own_trust(server_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """A server with a certificate of an own authority is reached by `ssl=`, and refused with a hint without it."""
    async with RawServer(answer(200, MESSAGE), ssl=server_tls) as server:
        async with support.session(server.url, ssl=trusting) as nairi:
            assert await read(nairi) == "Hello"
        async with support.session(server.url) as nairi:
            with pytest.raises(ConnectionFailedError, match="SSL_CERT_FILE or give ssl=") as caught:
                await read(nairi)
        assert len(server.seen) == 1
    assert caught.value.is_permanent


async def test_a_file_of_authorities(
    server_tls: ssl.SSLContext, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Authorities come from the file given as `ssl=`, or from `SSL_CERT_FILE` with `trust_env`, for both sessions."""
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(file)
    async with (
        RawServer(answer(200, MESSAGE), ssl=server_tls) as server,
        RawServer(SIGNED_IN, LISTED, ssl=server_tls) as other,
    ):
        async with support.session(server.url, ssl=file) as nairi:
            assert await read(nairi) == "Hello"
        async with amigo_sessions.session(other.url, ssl=str(file)) as amigo:
            assert await listed(amigo) == []
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        async with support.session(server.url, trust_env=True) as nairi:
            assert await read(nairi) == "Hello"
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
        with pytest.raises(ConfigurationError, match=r"SSL_CERT_FILE: '.*none.pem' cannot be read"):
            support.session(server.url, trust_env=True)


async def test_the_key_does_not_leave_the_machine_unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service on this machine without TLS is reached through a proxy of the environment only if that is here too."""
    proxy = Proxy()
    async with proxy.running() as url, RawServer(answer(200, MESSAGE)) as server:
        for address, uses in (("http://192.0.2.1:3128", 0), (url, 1)):
            monkeypatch.setenv("ALL_PROXY", address)
            async with support.session(server.url, trust_env=True) as nairi:
                assert await read(nairi) == "Hello"
            assert len(proxy.heads) == uses


async def test_client_certificates(authority: trustme.CA, server_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """A service that asks for a certificate gets the one of `ssl=`."""
    server_tls.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(server_tls)
    authority.issue_cert("client@example.org").configure_cert(trusting)
    async with (
        RawServer(answer(200, MESSAGE), ssl=server_tls) as server,
        support.session(server.url, ssl=trusting) as nairi,
    ):
        assert await read(nairi) == "Hello"


@pytest.mark.parametrize("password", [None, PASSWORD])
async def test_a_proxy_tunnels_to_the_service(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext, password: str | None
) -> None:
    """Both sessions reach the service through the proxy, which sees its own password and never the key."""
    proxy = Proxy(password=password)
    async with (
        proxy.running() as url,
        RawServer(answer(200, MESSAGE), ssl=server_tls) as server,
        RawServer(SIGNED_IN, LISTED, ssl=server_tls) as other,
    ):
        address = url if password is None else url.replace("//", f"//user:{QUOTED}@")
        async with support.session(server.url, ssl=trusting, proxy=address) as nairi:
            assert [await read(nairi) for _ in range(2)] == ["Hello"] * 2
            assert PASSWORD not in repr(nairi)
        async with amigo_sessions.session(other.url, ssl=trusting, proxy=address) as amigo:
            assert await listed(amigo) == []
        assert (len(server.seen), len(other.seen)) == (2, 2)
    assert [head.split()[0] for head in proxy.heads] == ["CONNECT", "CONNECT"]
    assert not any(secret in head for head in proxy.heads for secret in (KEY, amigo_sessions.KEY))
    assert all("Proxy-Authorization" not in seen.head for seen in (*server.seen, *other.seen))


async def test_a_proxy_over_tls(server_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """The way to the proxy itself may be encrypted."""
    proxy = Proxy(password=PASSWORD)
    async with proxy.running(server_tls) as url, RawServer(answer(200, MESSAGE), ssl=server_tls) as server:
        address = url.replace("//", f"//user:{QUOTED}@")
        async with support.session(server.url, ssl=trusting, proxy=address) as nairi:
            assert await read(nairi) == "Hello"
    assert len(proxy.heads) == 1


async def test_a_proxy_forwards_plain_http() -> None:
    """For a service on this machine, without TLS, the proxy gets its password with each request."""
    proxy = Proxy(password=PASSWORD)
    async with (
        proxy.running() as url,
        RawServer(answer(200, MESSAGE)) as server,
        support.session(server.url, proxy=url.replace("//", f"//user:{QUOTED}@")) as nairi,
    ):
        assert await read(nairi) == "Hello"
    assert proxy.heads[0].startswith("GET http://127.0.0.1")


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
async def test_the_proxy_of_the_environment(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `trust_env=True` it is used, unless `NO_PROXY` names the host; without, it is not; `proxy=` comes first."""
    proxy, other = Proxy(password=PASSWORD), Proxy()
    async with (
        proxy.running() as url,
        other.running() as given,
        RawServer(answer(200, MESSAGE), ssl=server_tls) as server,
    ):
        monkeypatch.setenv(variable, url.replace("//", f"//user:{QUOTED}@"))
        cases: list[tuple[dict[str, Any], tuple[int, int]]] = [
            ({"trust_env": True}, (1, 0)),
            ({}, (1, 0)),
            ({"trust_env": True, "proxy": given}, (1, 1)),
        ]
        for options, uses in cases:
            async with support.session(server.url, ssl=trusting, **options) as nairi:
                assert await read(nairi) == "Hello"
            assert (len(proxy.heads), len(other.heads)) == uses
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with support.session(server.url, ssl=trusting, trust_env=True) as nairi:
            assert await read(nairi) == "Hello"
        assert len(proxy.heads) == 1


@pytest.mark.parametrize("entry", ["machine 127.0.0.1 login me password mine", "default login me password mine"])
async def test_a_netrc_never_replaces_the_key(entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password for the host in `~/.netrc` is not used; a lent session that insists on it fails with a reason."""
    (tmp_path / "netrc").write_text(entry + "\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with RawServer(answer(200, MESSAGE)) as server:
        async with support.session(server.url, trust_env=True) as nairi:
            assert await read(nairi) == "Hello"
        assert f"Authorization: Bearer {KEY}\r\n" in server.seen[0].head
        async with aiohttp.ClientSession(trust_env=True) as http, support.session(server.url, http=http) as nairi:
            with pytest.raises(ConnectionFailedError, match=r"~/\.netrc") as caught:
                await read(nairi)
        assert len(server.seen) == 1
    assert caught.value.is_permanent
    assert not caught.value.sent


@pytest.mark.parametrize("method", ["read", "start"])
async def test_a_proxy_that_wants_another_password_is_final(trusting: ssl.SSLContext, method: str) -> None:
    """A 407 is one attempt, says so, is no unknown outcome, and shows no password."""
    proxy = Proxy(password="another")
    async with proxy.running() as url:
        address = url.replace("//", f"//user:{QUOTED}@")
        async with support.session("https://127.0.0.1:1", ssl=trusting, proxy=address) as nairi:
            with pytest.raises(ConnectionFailedError, match=r"407 Who are you.*password of the proxy") as caught:
                await (read(nairi) if method == "read" else nairi.start("my-agent", "Hello"))
    error = caught.value
    assert (len(proxy.heads), error.sent, error.is_permanent) == (1, False, True)
    encoded = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
    texts = [*shown(error), *frame_locals(error)]
    assert not [text for text in texts for secret in (PASSWORD, QUOTED, encoded, KEY) if secret in text]


async def test_a_proxy_that_is_not_there(trusting: ssl.SSLContext) -> None:
    """The error names the proxy, without its password, and not the service."""
    address = f"http://user:{QUOTED}@127.0.0.1:{support.free_port()}"
    async with support.session("https://127.0.0.1:1", ssl=trusting, proxy=address, retry=NO_RETRY) as nairi:
        with pytest.raises(ConnectionFailedError, match=r"is the proxy right\? http://127\.0\.0\.1:\d+ was") as caught:
            await read(nairi)
    assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if PASSWORD in text]
    assert not [text for text in shown(caught.value) if QUOTED in text]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"proxy": "socks5://user:s3cret-word@localhost:1080"}, "proxy must begin with http://"),
        ({"proxy": "user:s3cret-word@localhost"}, "proxy must begin with http://"),
        ({"proxy": "http://user:s3cret-word@[::1:1"}, "proxy is not a URL"),
        ({"proxy": "http://user:s3cret-word@:1"}, "proxy names no host"),
        ({"proxy": 3128}, "proxy must be a URL, not int"),
        ({"ssl": False}, "ssl must be an ssl.SSLContext, or the path of a file of certificates, not bool"),
        ({"ssl": "/no/such/authority.pem"}, "ssl: '/no/such/authority.pem' cannot be read: No such file"),
        ({"ssl": "/"}, "ssl: '/' cannot be read: Is a directory"),
        ({"ssl": __file__}, "holds no usable certificate: a text file of certificates is needed"),
        ({"ssl": ""}, "it is blank"),
        ({"trust_env": "yes"}, "trust_env must be True or False"),
    ],
)
def test_what_cannot_be_used_is_refused(options: dict[str, Any], reason: str) -> None:
    """A bad proxy, TLS context or flag is a configuration error of both sessions, and shows no password."""
    for make in (support.session, amigo_sessions.session):
        with pytest.raises(ConfigurationError, match=reason) as caught:
            make("https://example.com", **options)
        texts = [*shown(caught.value), *frame_locals(caught.value)]
        assert not [text for text in texts if "s3cret" in text]


async def test_a_bad_proxy_of_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named as the environment's; an address without a scheme is one."""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://localhost:1")
    with pytest.raises(ConfigurationError, match="the proxy of the environment must begin"):
        support.session("https://example.com", trust_env=True)
    monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{support.free_port()}")
    async with support.session("https://example.com", trust_env=True, retry=NO_RETRY) as nairi:
        with pytest.raises(NairiError, match="is the proxy right"):
            await read(nairi)


async def test_a_lent_session_brings_its_own() -> None:
    """`http=` together with `proxy=`, `ssl=` or `trust_env=` would leave one of them without effect: it is refused."""
    options: list[dict[str, Any]] = [
        {"proxy": "http://localhost:1"},
        {"ssl": ssl.create_default_context()},
        {"trust_env": True},
    ]
    async with aiohttp.ClientSession() as http:
        for option in options:
            with pytest.raises(ConfigurationError, match="http= brings its own"):
                support.session("https://example.com", http=http, **option)
