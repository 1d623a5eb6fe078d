"""The leanest service that can be counted against: fixed responses, from a process of its own.

It answers the paths of both services, without looking at keys. What it sends is made before a client asks, so that it
is never what a client waits for.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from child_process import child

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE = {
    "id": "cmsg_01KRK1V475HBTME8QJQMAPWK16",
    "job_id": "job_01KRK1V46BXS73CSNK2VR35NPJ",
    "content": "Your task description",
    "role": "user",
    "status": "pending",
    "created_at": "2026-04-12T18:45:12.000Z",
    "updated_at": "2026-04-12T18:45:12.000Z",
}
"""The message that every read of one gives."""
# The first read of a conversation has so many messages, each further one more, up to a number that no run reaches.
_FIRST = 40
_MOST = 80
# Seconds between pieces that are sent one by one: longer than a counted client takes for one.
_APART = 0.05
_TOGETHER = 200


def _response(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _timeline(count: int) -> bytes:
    messages = [
        {**MESSAGE, "id": f"cmsg_{number:026}", "role": "assistant", "status": "completed", "content": "x" * 300}
        for number in range(count)
    ]
    return _response(json.dumps({"messages": messages}).encode())


def _piece(number: int) -> bytes:
    event = {
        "type": "new-message",
        "message": "A few words at a time, ",
        "message_id": "6610a1f2c1b3e4d5f6a7b8c9",
        "sequence_number": number,
        "stop": False,
        "transcript_alignment": None,
    }
    return json.dumps(event).encode() + b"\n"


_SMALL = _response(json.dumps(MESSAGE).encode())
_TOKEN = _response(json.dumps({"id_token": "token", "expires_at": "2100-01-01T00:00:00Z"}).encode())
_TIMELINES = [_timeline(count) for count in range(_FIRST, _MOST)]
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
_CREATED = json.dumps({"type": "conversation-created", "conversation_id": "6610a1f2c1b3e4d5f6a7b8c8"}).encode() + b"\n"
_COMPLETE = {
    "type": "interaction-complete",
    "message_id": "6610a1f2c1b3e4d5f6a7b8c9",
    "interaction_id": "6610a1f2c1b3e4d5f6a7b8ca",
    "full_message": "",
    "conversation_completed": False,
}
_LAST = json.dumps(_COMPLETE).encode() + b"\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Connection(asyncio.Protocol):
    """Answers each request of one connection by its path."""

    def __init__(self, reads: Counter[str]) -> None:
        self.reads = reads

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while self._answer():
            pass

    def _answer(self) -> bool:
        """Answer the first whole request, if there is one."""
        head, separator, rest = self.received.partition(b"\r\n\r\n")
        if not separator:
            return False
        length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        body = rest[: int(length or 0)]
        if len(body) < int(length or 0):
            return False
        self.received = rest[len(body) :]
        path = head.split(b" ", 2)[1].decode()
        if "/messages/" in path:
            self.transport.write(_SMALL)
        elif path.endswith("/messages"):
            self.transport.write(_TIMELINES[self.reads[path]])
            self.reads[path] += 1
        elif "/signin" in path:
            self.transport.write(_TOKEN)
        else:
            count, pace = json.loads(body)["initial_message"].split()
            self._stream(int(count), pace)
        return True

    def _stream(self, count: int, pace: str) -> None:
        """Send so many pieces: `apart` in time, each in its `own` chunk, or many `together` in a chunk."""
        pieces = [_piece(number) for number in range(count)]
        self.transport.write(_STREAM + _chunk(_CREATED))
        end = _chunk(_LAST) + b"0\r\n\r\n"
        if pace == "together":
            chunks = [b"".join(pieces[start : start + _TOGETHER]) for start in range(0, count, _TOGETHER)]
            self.transport.write(b"".join(map(_chunk, chunks)) + end)
        elif pace == "own":
            self.transport.write(b"".join(map(_chunk, pieces)) + end)
        else:
            loop = asyncio.get_running_loop()
            for number, piece in enumerate(pieces):
                loop.call_later(number * _APART, self.transport.write, _chunk(piece))
            loop.call_later(count * _APART, self.transport.write, end)


def _serve(pipe: Any) -> None:
    async def main() -> None:
        reads = Counter[str]()
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(reads), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)

    asyncio.run(main())


@contextmanager
def serve() -> Iterator[str]:
    """Run the service until the block ends; gives its URL."""
    with child(_serve) as pipe:
        yield f"http://127.0.0.1:{pipe.recv()}"
