"""Errors that say what to do next, and show no secret while they do."""

from __future__ import annotations

import pickle
import re

import amigo_sessions
import pytest
import support
from hypothesis import given
from hypothesis import strategies as st
from support import RawServer, refusal

from nairi_async import AuthenticationError, ConfigurationError, ConnectionFailedError, RetryPolicy
from nairi_async._core.address import base_url
from nairi_async._core.concealed import Concealed

ONCE = RetryPolicy(attempts=1)
passwords = st.text(st.characters(codec="ascii", exclude_characters="@/?#[]:"), min_size=12).map(
    lambda text: f"pw{text}"
)


@pytest.mark.parametrize(
    ("url", "got"),
    [
        ("ftp://example.com", "got ftp://"),
        ("example.com/api", "got 'example.com'"),
        ("localhost:8000", "got 'localhost'"),
        ("nr_01JQ-a-key-in-the-wrong-place", "got a text without a scheme"),
    ],
)
def test_a_base_url_without_https_says_what_it_got(url: str, got: str) -> None:
    """It shows the scheme, or the host where there is none; anything else may be a key, and is not shown."""
    with pytest.raises(ConfigurationError, match=f"must begin with https://.*{re.escape(got)}") as caught:
        base_url(Concealed(url), prefix="/v1")
    assert "nr_" not in str(caught.value)


@given(passwords, st.sampled_from(["https://", "http://", "ftp://", ""]), st.sampled_from(["h", "example.com", ""]))
def test_no_base_url_shows_a_password(password: str, scheme: str, host: str) -> None:
    """No text about a base URL with a password holds the password."""
    with pytest.raises(ConfigurationError) as caught:
        base_url(Concealed(f"{scheme}user:{password}@{host}"), prefix="/v1")
    assert password not in str(caught.value)


@pytest.mark.anyio
async def test_a_401_says_what_to_check() -> None:
    """It names the setting of the key and the service that was asked, in each service's words, also once pickled."""
    async with RawServer(refusal(401, "invalid API key")) as server:
        async with support.session(server.url) as nairi:
            with pytest.raises(AuthenticationError, match=rf"NAIRI_API_KEY\); {server.url}.* was asked") as caught:
                await nairi.message("cmsg_1")
        async with amigo_sessions.session(server.url) as amigo:
            with pytest.raises(AuthenticationError, match=rf"AMIGO_API_KEY\); {server.url}.* was asked"):
                await amigo.finish(amigo_sessions.ID)
    assert caught.value.message == "invalid API key"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - our own


@pytest.mark.anyio
async def test_a_failed_connection_says_what_to_check() -> None:
    """Where there is no server, the error names the setting of the address, in each service's words."""
    url = f"http://127.0.0.1:{support.free_port()}"
    async with support.session(url, retry=ONCE) as nairi, amigo_sessions.session(url, retry=ONCE) as amigo:
        with pytest.raises(ConnectionFailedError, match=rf"is NAIRI_BASE_URL right\? {url}.* was asked"):
            await nairi.message("cmsg_1")
        with pytest.raises(ConnectionFailedError, match=rf"is AMIGO_BASE_URL right\? {url}.* was asked"):
            await amigo.finish(amigo_sessions.ID)


@pytest.mark.anyio
async def test_a_proxy_that_is_not_found_is_named() -> None:
    """A proxy whose name does not resolve is not taken for a wrong base URL."""
    async with support.session("https://api.example.com", proxy="http://nohost.invalid:1", retry=ONCE) as nairi:
        with pytest.raises(ConnectionFailedError, match=r"is the proxy right\? http://nohost\.invalid:1 was asked"):
            await nairi.message("cmsg_1")
    async with support.session("https://nohost.invalid", retry=ONCE) as nairi:
        with pytest.raises(ConnectionFailedError, match=r"is NAIRI_BASE_URL right\?"):
            await nairi.message("cmsg_1")
