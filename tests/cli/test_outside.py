"""The command and the machine around it: proxies, certificates, a key in a file, the log."""

from __future__ import annotations

import logging
import os
import ssl
import stat
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from running import run
from support import RawServer, answer
from test_network import Proxy
from test_secrecy import frame_locals, shown

from nairi_async import ConfigurationError
from nairi_async.cli import main
from nairi_async.cli.connection import key_of_file
from nairi_async.cli.log_handler import logs

if TYPE_CHECKING:
    from pathlib import Path

KEY = "nr_s3cret-of-the-file"
URL = "https://127.0.0.1:9"

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\r\n")
    file.chmod(0o600)
    return file


@pytest.mark.anyio
async def test_a_command_behind_a_proxy_with_its_own_authority(tmp_path: Path, key_file: Path) -> None:
    """The proxy, the authority and the key come from the environment; the log has each request and never the key."""
    authority, log = trustme.CA(), tmp_path / "log"
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    proxy = Proxy()
    async with proxy.running() as url, RawServer(answer(200, b'{"messages": []}'), ssl=tls) as server:
        way: dict[str, Any] = {"HTTPS_PROXY": url, "NO_PROXY": "", "SSL_CERT_FILE": str(tmp_path / "authority.pem")}
        settings: dict[str, Any] = {"NAIRI_BASE_URL": server.url, "NAIRI_API_KEY_FILE": str(key_file)}
        words = ("messages", "job_1", "--json", "--verbose")
        ended = await run("--log-file", str(log), *words, **way, **settings)
        assert f"Authorization: Bearer {KEY}\r\n" in server.seen[0].head
    assert (ended.status, len(proxy.heads)) == (0, 1), ended.err
    assert "debug: GET /conversations/job_1/messages: 200" in ended.err
    (line,) = [line for line in log.read_text().splitlines() if "/messages: 200" in line]
    assert line.split()[1:3] == ["DEBUG", "nairi_async.requests"]
    assert not [text for text in (ended.out, ended.err, log.read_text()) if KEY in text]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        ({"HTTPS_PROXY": "socks5://user:hidden@localhost:1"}, "the proxy of the environment must begin with http://"),
        ({"HTTPS_PROXY": "http://:3128"}, "the proxy of the environment names no host"),
        ({"SSL_CERT_FILE": "/no/such/file"}, "SSL_CERT_FILE: '/no/such/file' cannot be read: No such file"),
        ({"NAIRI_API_KEY": "nr_1"}, "NAIRI_API_KEY and NAIRI_API_KEY_FILE are both set: set one of them"),
        ({"NAIRI_API_KEY_FILE": "/no/such/file"}, "NAIRI_API_KEY_FILE: '/no/such/file' cannot be read: No such file"),
        ({"NAIRI_API_KEY_FILE": "/"}, "NAIRI_API_KEY_FILE: '/' cannot be read: Is a directory"),
    ],
)
def test_settings_of_the_environment_that_cannot_be_used(
    variables: dict[str, str],
    error: str,
    key_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each is one line that names the variable, with status 2, before any request."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "NAIRI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"NAIRI_API_KEY_FILE": str(key_file), **variables}.items():
        monkeypatch.setenv(name, value)
    assert main(["agents", "--base-url", URL]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"nairi-async: error: {error}")
    assert (err.count("\n"), KEY in err, "hidden" in err) == (1, False, False)


@pytest.mark.parametrize(
    ("content", "mode", "error"),
    [
        (f"{KEY}\n{KEY}\n", 0o600, "must hold the key, and nothing else, on one line"),
        ("\n", 0o600, "must hold the key, and nothing else, on one line"),
        ("\udcff", 0o600, "must hold the key, and nothing else, on one line"),
        (KEY, 0o660, "can be written by other users"),
        (KEY, 0o644, None),
        (f"\ufeff{KEY}\r\n\n", 0o600, None),
    ],
)
def test_the_file_of_a_key(
    content: str, mode: int, error: str | None, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file with anything but one key, or that others can write, is refused; one that others can read is reported."""
    key_file.write_bytes(content.encode(errors="surrogateescape"))
    key_file.chmod(mode)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NAIRI_API_KEY", raising=False)
        patch.setenv("NAIRI_API_KEY_FILE", str(key_file))
        if os.geteuid() == 0:
            # As another user: root's files are those of a container's secrets, which cannot be changed.
            os.chown(key_file, 1000, -1)
            patch.setattr("os.geteuid", lambda: 1000)
        if error is None:
            assert key_of_file("NAIRI_API_KEY") == KEY
        else:
            with pytest.raises(ConfigurationError, match=error) as caught:
                key_of_file("NAIRI_API_KEY")
            assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if KEY in text]
    warned = "can be read by other users: change its permissions with chmod 600" in capsys.readouterr().err
    assert warned == (mode == 0o644)


def test_a_log_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused before anything else happens."""
    assert main(["agents", "--log-file", str(tmp_path)]) == 2
    assert "--log-file" in capsys.readouterr().err


def test_a_log_that_exists_is_appended_to(tmp_path: Path) -> None:
    """It keeps its content and its permissions, by which a collector of logs may read it."""
    log = tmp_path / "log"
    log.write_text("before\n")
    log.chmod(0o640)
    with logs(verbose=False, file=str(log)):
        logging.getLogger("nairi_async").info("after")
    assert [line.split()[-1] for line in log.read_text().splitlines()] == ["before", "after"]
    assert stat.S_IMODE(log.stat().st_mode) == 0o640


def test_a_log_that_breaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command goes on; one line says that nothing is written any more."""
    pipe = tmp_path / "log"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with logs(verbose=False, file=str(pipe)):
        os.close(reader)
        for _ in range(2):
            logging.getLogger("nairi_async.requests").warning("refused")
    shown = capsys.readouterr().err.splitlines()
    assert [line for line in shown if str(pipe) in line] == [f"warning: '{pipe}' is not written any more: Broken pipe"]
