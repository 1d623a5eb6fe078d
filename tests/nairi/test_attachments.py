"""Uploads and downloads: every kind of source, every limit, and no way out of the directory."""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import json
import os
import pickle
import stat
import sys
from copy import copy
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from support import Last, RawServer, until
from support import session as session_to

from nairi_async import (
    MAX_ATTACHMENT_BYTES,
    MAX_ATTACHMENTS,
    Attachment,
    AttachmentExistsError,
    ConnectionFailedError,
    DecodeError,
    InvalidArgumentError,
    NairiError,
    NairiSession,
    NotFoundError,
    Reply,
    RetryPolicy,
    ServerError,
    Turn,
)
from nairi_async._core.files import safe_name
from nairi_async._core.private_files import create_private
from nairi_async._core.upload import guessed_type
from nairi_async._nairi import wire
from nairi_async._nairi.attachment_scanner import AttachmentScanner
from nairi_async.testing import Say, Simulator, VirtualClock
from nairi_async.testing.json_bodies import json_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

DATA = bytes(range(256)) * 3000


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


class Pipe(io.RawIOBase):
    """A binary file that can neither seek nor state its size."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(buffer)


class AsyncReader:
    """Something with an asynchronous `read` and nothing else."""

    name = "given.bin"

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    async def read(self, size: int) -> bytes:
        return self._data.read(size)


async def stored(nairi: NairiSession, source: Any, **options: Any) -> tuple[str, bytes]:
    """Upload a source and return the name and the bytes that the service stored."""
    file = await nairi.download(await nairi.upload(source, **options))
    return file.filename, file.data


async def test_every_kind_of_source_arrives_whole(nairi: NairiSession, tmp_path: Path) -> None:
    """A path, bytes, files of all kinds and streams arrive as the same bytes, under their own names."""
    path = tmp_path / "größe.bin"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        file.read(10)
        assert await stored(nairi, file) == ("größe.bin", DATA[10:])
    async with await anyio.open_file(path, "rb") as opened:
        assert await stored(nairi, opened) == ("größe.bin", DATA)
    for place in (path, str(path)):
        assert await stored(nairi, place) == ("größe.bin", DATA)
    for source in (DATA, bytearray(DATA), memoryview(DATA), io.BytesIO(DATA), Pipe(DATA), stream(DATA[:9], DATA[9:])):
        assert await stored(nairi, source) == ("attachment", DATA)
    assert await stored(nairi, AsyncReader(DATA)) == ("given.bin", DATA)
    reader = asyncio.StreamReader()
    reader.feed_data(DATA)
    reader.feed_eof()
    assert await stored(nairi, reader, filename="other") == ("other", DATA)


@pytest.mark.parametrize("name", ['quo"ted', "back\\slash", "a b; c=d.txt", "日本語 🙂.txt", "%22", "x" * 300, "é'"])
async def test_a_filename_is_sent_unchanged(nairi: NairiSession, name: str) -> None:
    """Quotes, backslashes and any script neither break the header nor are changed."""
    assert await stored(nairi, b"x", filename=name) == (name, b"x")


@pytest.mark.parametrize("name", ["", " ", "a\nb", 'a"\r\nX-Evil: 1', "a\0b", "\x7f", "\ud800", "a\u2028b", 3])
async def test_a_name_that_no_header_can_carry_is_refused(simulator: Simulator, nairi: NairiSession, name: Any) -> None:
    """Control characters and blank names are refused before any request."""
    with pytest.raises(InvalidArgumentError):
        await nairi.upload(b"x", filename=name)
    assert simulator.requests == []


async def test_bad_sources_are_refused_before_any_request(
    simulator: Simulator, nairi: NairiSession, tmp_path: Path
) -> None:
    """Missing files, directories, empty and closed ones, text files and other things never reach the service."""
    empty, text = tmp_path / "empty", tmp_path / "text"
    empty.touch()
    text.write_text("x")
    closed = io.BytesIO(b"x")
    closed.close()
    with text.open(encoding="utf-8") as as_text:
        bad = [
            tmp_path / "gone",
            tmp_path,
            empty,
            b"",
            io.BytesIO(),
            closed,
            as_text,
            io.StringIO("x"),
            "a\0b",
            3,
            None,
        ]
        for source in bad:
            with pytest.raises(InvalidArgumentError):
                await nairi.upload(source)  # type: ignore[arg-type]
    for options in ({"content_type": "text"}, {"content_type": "a/b\r\nX: y"}, {"progress": 3}, {"attempt_timeout": 0}):
        with pytest.raises(InvalidArgumentError):
            await nairi.upload(b"x", **options)
    assert simulator.requests == []


async def test_a_file_over_the_limit_is_refused_before_any_request(
    simulator: Simulator, nairi: NairiSession, tmp_path: Path
) -> None:
    """A file of 50 MB and one byte is refused if its size is known."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MAX_ATTACHMENT_BYTES + 1)
    with pytest.raises(InvalidArgumentError, match=str(MAX_ATTACHMENT_BYTES)):
        await nairi.upload(large)
    assert simulator.requests == []


async def test_a_stream_over_the_limit_is_stopped(simulator: Simulator, nairi: NairiSession) -> None:
    """If the size is unknown, the upload stops at the limit, is not repeated, and nothing is stored."""
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(1 << 20)

    with pytest.raises(InvalidArgumentError, match="at most"):
        await nairi.upload(endless())
    assert taken == 51
    assert [request.status for request in simulator.requests if request.status < 300] == []


@pytest.mark.parametrize("source", [stream(), stream(b""), Pipe(b"")])
async def test_an_empty_stream_is_refused(nairi: NairiSession, source: Any) -> None:
    """A stream that ends without any bytes is refused like an empty file."""
    with pytest.raises(InvalidArgumentError, match="empty"):
        await nairi.upload(source)


async def test_exceptions_of_a_source_reach_the_caller(nairi: NairiSession) -> None:
    """A stream's own exception is raised unchanged; wrong chunks and a file that changes are typed errors."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise LookupError("mine")

    class WrongSize(io.BytesIO):
        def __init__(self, data: bytes, size: int) -> None:
            super().__init__(data)
            self._size = size

        def seek(self, offset: int, whence: int = 0) -> int:
            return self._size if whence == os.SEEK_END else super().seek(offset, whence)

    class Failing(Pipe):
        def readinto(self, _buffer: Any) -> int:
            raise OSError(5, "Input/output error")

    with pytest.raises(LookupError, match="mine"):
        await nairi.upload(broken())
    with pytest.raises(InvalidArgumentError, match="str"):
        await nairi.upload(stream("text"))  # type: ignore[arg-type]
    for size in (5, 500):
        with pytest.raises(InvalidArgumentError, match="changed"):
            await nairi.upload(WrongSize(b"x" * 50, size))
    with pytest.raises(InvalidArgumentError, match="Input/output error"):
        await nairi.upload(Failing(b""))
    assert await stored(nairi, b"the session still works") == ("attachment", b"the session still works")


async def test_progress_reports_what_was_sent(nairi: NairiSession) -> None:
    """The callback gets rising numbers up to the size, and `None` for an unknown size."""
    seen: list[tuple[int, int | None]] = []
    await nairi.upload(DATA, progress=lambda sent, size: seen.append((sent, size)))
    assert [sent for sent, _ in seen] == sorted({sent for sent, _ in seen})
    assert seen[-1] == (len(DATA), len(DATA))
    await nairi.upload(stream(b"ab", b"c"), progress=lambda sent, size: seen.append((sent, size)))
    assert seen[-2:] == [(2, None), (3, None)]

    def stop(sent: int, size: int | None) -> None:
        raise KeyError(sent)

    with pytest.raises(KeyError):
        await nairi.upload(DATA, progress=stop)


async def test_an_upload_is_repeated_only_if_it_can_be_read_again(simulator: Simulator, nairi: NairiSession) -> None:
    """After a fault a file is read again from its beginning; a stream that was consumed raises the fault."""
    faults = 1

    async def fail(request: web.Request, response: web.StreamResponse) -> web.StreamResponse | None:
        nonlocal faults
        faults -= 1
        return json_response({"error": "try again"}, 503) if faults >= 0 else None

    simulator.intercept_response = fail
    assert await stored(nairi, io.BytesIO(DATA)) == ("attachment", DATA)
    faults = 1
    with pytest.raises(ServerError, match="try again"):
        await nairi.upload(stream(DATA))
    assert faults == 0


async def test_the_content_type_is_guessed_and_can_be_given(simulator: Simulator, nairi: NairiSession) -> None:
    """The part's type comes from the name; a compressed file has the type of its compression."""
    bodies: list[bytes] = []

    async def keep(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.read())
        return json_response({"attachment_id": "att_1"}, 201)

    simulator.intercept = keep
    await nairi.upload(b"x", filename="a.png")
    await nairi.upload(b"x", filename="a.png", content_type="text/plain; charset=utf-8")
    assert b'name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\nx\r\n--' in bodies[0]
    assert b"Content-Type: text/plain; charset=utf-8\r\n" in bodies[1]
    kinds = [guessed_type(name) for name in ("a.tar.gz", "a.txt.br", "unknown", "a.json")]
    assert kinds == ["application/gzip", "application/octet-stream", "application/octet-stream", "application/json"]


async def test_files_of_a_prompt_are_uploaded_first(simulator: Simulator, nairi: NairiSession, tmp_path: Path) -> None:
    """`attachments=` works in every call that sends a prompt, keeps the order, and adds to the given ids."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"a")
    known = await nairi.upload(b"known")
    turn = await nairi.start("my-agent", "Look", attachments=[path, b"b"], attachment_ids=[known])
    await nairi.continue_(turn.job_id, "Look", attachments=[b"c"])
    await nairi.ask("my-agent", "Look", attachments=[b"d", io.BytesIO(b"e")])
    conversation = nairi.conversation("my-agent")
    await conversation.ask("Look", attachments=[b"f"])
    async for _ in conversation.send("Look", attachments=[b"g"]):
        pass
    sent = [[(await nairi.download(id_)).data for id_ in asked.attachment_ids] for asked in simulator.prompts]
    assert sent == [[b"known", b"a", b"b"], [b"c"], [b"d", b"e"], [b"f"], [b"g"]]


async def test_files_of_a_prompt_are_checked_before_the_first_is_sent(
    simulator: Simulator, nairi: NairiSession, tmp_path: Path
) -> None:
    """One bad file, one too many, the same file twice, or a single value: no request is made."""
    file = io.BytesIO(b"x")
    bad: list[Any] = [
        [b"x", tmp_path / "gone"], [b"x"] * (MAX_ATTACHMENTS + 1), b"x", "path", tmp_path, file, [file, file], 3, {},
    ]  # fmt: skip
    for attachments in bad:
        with pytest.raises(InvalidArgumentError):
            await nairi.start("my-agent", "Look", attachments=attachments)
    with pytest.raises(InvalidArgumentError, match="11 attachments"):
        await nairi.ask("my-agent", "Look", attachments=[b"x"] * 9, attachment_ids=["att_1", "att_2"])
    with pytest.raises(InvalidArgumentError):
        await nairi.start("my-agent", " ", attachments=[b"x"])
    assert simulator.requests == []


async def test_a_failed_upload_sends_no_prompt_and_stops_the_others(simulator: Simulator, nairi: NairiSession) -> None:
    """The first failure is raised unchanged, and no upload of the call goes on in the background."""

    async def refuse(request: web.Request, response: web.StreamResponse) -> web.StreamResponse | None:
        is_bad = any(file.data == b"bad" for file in simulator._state.files.values())
        return json_response({"error": "file is bad"}, 400) if is_bad else None

    simulator.intercept_response = refuse
    with pytest.raises(NairiError, match="file is bad"):
        await nairi.start("my-agent", "Look", attachments=[b"bad", *[DATA] * 8])
    assert simulator.prompts == []


async def test_a_cancelled_prompt_uploads_nothing_twice(simulator: Simulator, nairi: NairiSession) -> None:
    """A watch whose first step was cancelled during an upload keeps the files that were uploaded already."""
    arrived = 0

    async def hang(request: web.Request) -> web.StreamResponse | None:
        nonlocal arrived
        arrived += request.path.endswith("/attachments")
        if arrived == 2 and request.path.endswith("/attachments"):
            await asyncio.Event().wait()
        return None

    simulator.intercept = hang
    watch = nairi.conversation("my-agent").send("Look", attachments=[b"one", b"two"])
    step = asyncio.ensure_future(anext(watch))
    await until(lambda: arrived == 2 and simulator.requests)
    # Once a later request is answered, the response to the upload has been read.
    await nairi.agents()
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    await anext(watch)
    (asked,) = simulator.prompts
    assert [(await nairi.download(id_)).data for id_ in asked.attachment_ids] == [b"one", b"two"]
    assert len(simulator._state.files) == 2


async def test_the_files_of_a_reply(simulator: Simulator, nairi: NairiSession) -> None:
    """`reply.attachments()` and `nairi.attachments(reply)` fetch all, in order; a pickled reply says what to do."""
    ids = [simulator.attachment(f"{number}.txt", str(number).encode()) for number in range(6)]
    simulator.agent("maker", [Say("Here.", attachment_ids=ids)])
    reply = await nairi.ask("maker", "Make")
    assert [file.data for file in await reply.attachments()] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert await nairi.attachments(reply) == await nairi.attachments(reply.messages[0]) == await reply.attachments()
    for stored_reply in (pickle.loads(pickle.dumps(reply)), copy(reply)):  # noqa: S301 - our own
        assert (stored_reply, hash(stored_reply), repr(stored_reply)) == (reply, hash(reply), repr(reply))
        with pytest.raises(InvalidArgumentError, match=r"nairi\.attachments"):
            await stored_reply.attachments()
    with pytest.raises(InvalidArgumentError):
        await nairi.attachments("att_1")  # type: ignore[arg-type]
    lost = Reply.of(Turn("job", "cmsg"), reply.messages)
    simulator._state.files.clear()
    with pytest.raises(NotFoundError):
        await nairi.attachments(lost)


def body(data: str, **more: Any) -> bytes:
    return json.dumps({"id": "att_1", "filename": "a", "data": data, **more}).encode()


def scanned(document: bytes, size: int) -> Attachment:
    scanner = AttachmentScanner()
    pieces = (document[begin : begin + size] for begin in range(0, len(document), size))
    all(scanner.write(piece) for piece in pieces)
    return scanner.attachment()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("data"), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.binary(max_size=60),
    st.dictionaries(st.text(), json_values, max_size=4),
    st.booleans(),
    st.sampled_from([None, 1]),
    st.integers(1, 40),
)
def test_scanning_is_the_same_as_decoding_the_whole(
    data: bytes,
    more: dict[str, Any],
    is_first: bool,  # noqa: FBT001 - hypothesis gives it
    indent: int | None,
    size: int,
) -> None:
    """In pieces of any size and with any other fields, the scanner gives the same file as the ordinary decoder."""
    text = base64.b64encode(data).decode()
    document = {"data": text, **more} if is_first else {**more, "data": text}
    plain = json.dumps(document, indent=indent).encode()
    assert scanned(plain, size) == wire.decode_attachment(plain)
    escaped = plain.replace(b"/", b"\\/").replace(b"+", b"\\u002b")
    assert scanned(escaped, size) == wire.decode_attachment(escaped)


@given(st.data(), st.integers(1, 40))
def test_what_cannot_be_decoded_cannot_be_scanned(data: st.DataObject, size: int) -> None:
    """Damaged documents are refused by scanner and decoder alike."""
    document = bytearray(body(base64.b64encode(data.draw(st.binary(max_size=30))).decode(), data2="x"))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(document) - 1))
        document[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=2))
    try:
        expected = wire.decode_attachment(bytes(document))
    except DecodeError:
        with pytest.raises(DecodeError):
            scanned(bytes(document), size)
    else:
        assert scanned(bytes(document), size) == expected


@pytest.mark.parametrize("data", ["abc", "YQ==YQ==", "Y Q=", "!!!!", "YQ=", "YWJj\n", "é"])
async def test_bad_base64_is_a_typed_error(simulator: Simulator, nairi: NairiSession, data: str) -> None:
    """Data that is no base64 is a DecodeError that names the path, after one request."""

    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body(data), content_type="application/json")

    simulator.intercept = respond
    with pytest.raises(DecodeError, match="base64") as caught:
        await nairi.download("att_1")
    assert caught.value.path == "/attachments/att_1"
    assert len(simulator.requests) == 1


async def test_an_endless_response_is_stopped(nairi: NairiSession, simulator: Simulator) -> None:
    """A body over the limit is refused while it arrives, and is not buffered."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"data":"')
        while True:
            await response.write(b"YWJj" * (1 << 18))

    simulator.intercept = endless
    with pytest.raises(DecodeError, match="larger than"):
        await nairi.download("att_1")


@pytest.mark.parametrize("length", [10, 10_000])
async def test_a_wrong_content_length_is_a_typed_error(length: int) -> None:
    """A response shorter or longer than its Content-Length raises an error, and does not hang."""
    document = body(base64.b64encode(b"x" * 60).decode())
    response = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode() + document
    async with RawServer(Last(response)) as server, session_to(server.url, retry=RetryPolicy(attempts=1)) as nairi:
        with pytest.raises((ConnectionFailedError, DecodeError)):
            await nairi.download("att_1")


@pytest.mark.parametrize("attachment_id", ["", "a b", "..", 3, None])
async def test_a_wrong_id_is_refused_before_any_request(
    simulator: Simulator, nairi: NairiSession, attachment_id: Any
) -> None:
    """A value that cannot be an id is never sent; an id that the service does not know is a NotFoundError."""
    with pytest.raises(InvalidArgumentError):
        await nairi.download(attachment_id)
    assert simulator.requests == []
    with pytest.raises(NotFoundError):
        await nairi.download("att_unknown")


def test_an_allowance_of_time_grows_with_the_file(clock: VirtualClock) -> None:
    """The timeout of a large file allows for a slow connection, beyond the timeout of a small request."""
    files = NairiSession("nr_x", base_url="http://127.0.0.1:9", request_timeout=7, clock=clock)._files
    assert files._allowance(0) == 7
    assert files._allowance(MAX_ATTACHMENT_BYTES) == 7 + 200


def names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


def attachment(name: str, data: bytes = b"data") -> Attachment:
    return Attachment(id="att_1", filename=name, data=data)


@given(st.text() | st.sampled_from(["../x", "/etc/passwd", "C:\\x", "C:x", "..", ".", "", "a\0b", "nul", "COM1.txt"]))
def test_no_name_leads_out_of_the_directory(name: str) -> None:
    """Any filename becomes one plain name that every file system takes."""
    safe = safe_name(name, "att_1")
    assert safe
    assert safe not in {".", ".."}
    assert not set(safe) & set('/\\:\0<>"|?*\n\r')
    assert not safe.endswith((".", " "))
    assert not safe.startswith((".", "-"))
    assert len(safe.encode()) <= 255


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("report.pdf", "report.pdf"), ("größe 1.txt", "größe 1.txt"), (".env", "_env"), ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"), ("C:\\Users\\x\\y.txt", "y.txt"), ("C:evil.txt", "evil.txt"),
        ("a.txt:ads", "a.txt_ads"),
        ("..", "att_1"), ("", "att_1"), (" ", "att_1"), ("dir/", "dir"), ("nul", "_nul"), ("CON.tar.gz", "_CON.tar.gz"),
        ("a\0b\n.txt", "a_b_.txt"), ("\u202egpj.exe", "_gpj.exe"), ("x" * 300 + ".pdf", "x" * 251 + ".pdf"),
        ("ü" * 200, "ü" * 127), ("x." + "y" * 300, "x." + "y" * 253), ("name. . ", "name"),
        (".bash_profile", "_bash_profile"), ("-rf", "_rf"), ("--", "_-"), ("a-b.c", "a-b.c"), ("...x", "_..x"),
    ],
)  # fmt: skip
def test_names_are_kept_as_far_as_they_can_be(name: str, safe: str) -> None:
    """Ordinary names stay; directories, drives, devices, control characters, hidden files and options do not."""
    assert safe_name(name, "att_1") == safe


async def test_saving_writes_the_file_and_nothing_else(tmp_path: Path) -> None:
    """The whole file has its name, in a directory created for it, with the permissions of any new file."""
    place = await attachment("a/b/../report.txt", DATA).save(tmp_path / "new" / "place")
    assert place == tmp_path / "new" / "place" / "report.txt"
    assert place.read_bytes() == DATA
    assert names(place.parent) == ["report.txt"]
    plain = tmp_path / "plain"
    plain.touch()
    assert place.stat().st_mode == plain.stat().st_mode


async def test_saving_overwrites_only_on_request(tmp_path: Path) -> None:
    """An existing file stays unchanged unless `overwrite` is on; then it is replaced atomically."""
    (tmp_path / "a.txt").write_bytes(b"old")
    with pytest.raises(AttachmentExistsError, match=r"a\.txt") as caught:
        await attachment("a.txt").save(tmp_path)
    assert isinstance(caught.value, FileExistsError)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), AttachmentExistsError)  # noqa: S301 - our own
    assert (tmp_path / "a.txt").read_bytes() == b"old"
    await attachment("a.txt").save(tmp_path, overwrite=True)
    assert (names(tmp_path), (tmp_path / "a.txt").read_bytes()) == (["a.txt"], b"data")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
async def test_saving_follows_no_link_out_of_the_directory(tmp_path: Path) -> None:
    """A link of the file's name is refused, or replaced with `overwrite`; its target is not touched."""
    outside, inside = tmp_path / "outside.txt", tmp_path / "inside"
    outside.write_bytes(b"old")
    inside.mkdir()
    (inside / "a.txt").symlink_to(outside)
    (inside / "b.txt").symlink_to(tmp_path / "nowhere")
    for name in ("a.txt", "b.txt"):
        with pytest.raises(AttachmentExistsError):
            await attachment(name).save(inside)
        await attachment(name).save(inside, overwrite=True)
    assert outside.read_bytes() == b"old"
    assert not (tmp_path / "nowhere").exists()


async def test_saving_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that has none, a new file still replaces no other, and nothing else stays behind."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert (await attachment("a.txt").save(tmp_path)).read_bytes() == b"data"
    (tmp_path / "b.txt").write_bytes(b"old")
    with pytest.raises(AttachmentExistsError):
        await attachment("b.txt").save(tmp_path)
    assert (sorted(names(tmp_path)), (tmp_path / "b.txt").read_bytes()) == (["a.txt", "b.txt"], b"old")
    for _ in range(2):
        create_private(tmp_path / "c.sqlite")
    assert sorted(names(tmp_path)) == ["a.txt", "b.txt", "c.sqlite"]
    assert stat.S_IMODE((tmp_path / "c.sqlite").stat().st_mode) == 0o600


async def test_a_save_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """If the name is taken by a directory, no part of the file stays behind."""
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError, match=r"a\.txt"):
        await attachment("a.txt").save(tmp_path, overwrite=True)
    assert names(tmp_path) == ["a.txt"]
