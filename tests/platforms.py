"""Chat platforms on loopback: the parts of Discord, Telegram and Slack that a bot uses, over HTTP and WebSockets."""

from __future__ import annotations

import asyncio
import importlib
import json
import zlib
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web
from attrs import frozen
from support import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from types import TracebackType
    from typing import Self

# Seconds between checks: the platforms' libraries run in real time.
_CHECK_INTERVAL = 0.005


@frozen
class SentMessage:
    """A text or a file that the bot sent to a chat."""

    chat: str
    text: str = ""
    file: tuple[str, bytes] | None = None


def library_tasks() -> list[asyncio.Task[Any]]:
    """Return the tasks that the platforms' libraries began and left running."""
    return [task for task in asyncio.all_tasks() if _is_of_a_library(task)]


def _is_of_a_library(task: asyncio.Task[Any]) -> bool:
    """Return whether a platform's library began the task: `asyncio.run` would end it with the bot's program."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and any(f"/{name}/" in code.co_filename for name in ("aiogram", "discord", "slack_bolt"))


class Platform(ABC):
    """What all three have: a server, the bot's messages and typing indicators, and the users' files."""

    def __init__(self) -> None:
        self.sent: list[SentMessage] = []
        self.typing: list[str] = []
        self.files: dict[str, bytes] = {}
        self.busy = 0
        """How many messages of the bot are still refused with a rate limit."""
        self.losses = 0
        """How many of the bot's messages are still taken with a response that is lost."""
        self.typing_shown = asyncio.Event()
        """Cleared to keep back the response to a typing indicator, which then is an error on Discord."""
        self.typing_shown.set()
        self.requests: list[str] = []
        """The paths of the bot's requests."""
        self.ids = count(1001)
        self.outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._ready = asyncio.Event()
        self._ready.set()

    async def __aenter__(self) -> Self:
        self._served = serve(self._record)
        self.url = await self._served.__aenter__()
        self.is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A library that leaves a connection open must not keep the server open.
        self.is_open = False
        await self._served.__aexit__(kind, error, trace)

    async def _record(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request.path)
        return await self._respond(request)

    def _is_lost(self) -> bool:
        self.losses -= 1
        return self.losses >= 0

    @abstractmethod
    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Respond to a request of the bot."""

    def _is_busy(self) -> bool:
        self.busy -= 1
        return self.busy >= 0

    @asynccontextmanager
    async def running(self, main: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
        """Run a bot's whole program during the block, then end it and its tasks by a cancellation, as Ctrl-C does."""
        self._program = asyncio.create_task(main())
        try:
            yield
        finally:
            self._program.cancel()
            await asyncio.wait([self._program])
            remaining = library_tasks()
            for task in remaining:
                task.cancel()
            await asyncio.gather(*remaining, return_exceptions=True)
        assert self._program.cancelled(), self._program.exception()

    async def until_sent(self, condition: Callable[[list[SentMessage]], bool]) -> None:
        """Wait until the bot's messages meet a condition."""
        while not (self.sent and condition(self.sent)) and not self._program.done():  # noqa: ASYNC110 - the libraries set no event
            await asyncio.sleep(_CHECK_INTERVAL)
        if self._program.done():
            self._program.result()

    async def _send_outgoing(self, request: web.BaseRequest, *greeting: dict[str, Any]) -> web.WebSocketResponse:
        """Serve a WebSocket that sends the greeting, and then all outgoing messages."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for message in greeting:
            await self._push(socket, message)

        async def pump() -> None:
            await self._ready.wait()
            while True:
                await self._push(socket, await self.outgoing.get())

        task = asyncio.create_task(pump())
        try:
            async for received in socket:
                if received.type is WSMsgType.TEXT:
                    await self._handle(socket, json.loads(received.data))
        finally:
            task.cancel()
            await asyncio.wait([task])
        return socket

    async def _push(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        await socket.send_json(message)

    async def _handle(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:  # noqa: B027 - most platforms need nothing here
        """Handle a message of the bot on the WebSocket."""


def _json(value: object, **more: Any) -> web.Response:
    """Return JSON as Discord sends it: its library does not accept a `charset`."""
    return web.Response(body=json.dumps(value).encode(), content_type="application/json", **more)


class Discord(Platform):
    """The gateway and the REST interface, version 10."""

    bot = {"id": "1", "username": "agent", "discriminator": "0", "avatar": None, "bot": True}  # noqa: RUF012
    user = {"id": "2", "username": "ada", "discriminator": "0", "avatar": None}  # noqa: RUF012
    guild = {  # noqa: RUF012
        "id": "50", "name": "Guild", "owner_id": "2", "member_count": 2, "members": [], "threads": [],
        "roles": [{"id": "50", "name": "@everyone", "permissions": "0", "position": 0, "color": 0}],
        "channels": [{"id": "51", "type": 0, "name": "general", "position": 0, "permission_overwrites": []}],
    }  # fmt: skip

    application = {  # noqa: RUF012
        "id": "1", "name": "agent", "icon": None, "description": "", "verify_key": "", "flags": 0, "owner": user,
        "bot_public": True, "bot_require_code_grant": False, "team": None,
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._sequence = count(1)
        self.nonces: list[str | None] = []
        """Of each text that the bot sent, the id by which Discord recognises it; `None` if it was not asked to."""

    def write(
        self, channel: str, text: str, *, guild: str | None = None, files: dict[str, bytes] | None = None
    ) -> dict[str, Any]:
        """Let a user write in a channel; return the event, which can be delivered again."""
        self.files |= files or {}
        event = self._message(channel, text, self.user)
        event["mentions"] = [self.bot] if "<@1>" in text else []
        event["attachments"] = [
            {"id": "9", "filename": name, "size": len(data), "url": f"{self.url}/cdn/{name}", "proxy_url": ""}
            for name, data in (files or {}).items()
        ]
        if guild:
            event |= {
                "guild_id": guild,
                "member": {"roles": [], "joined_at": None, "deaf": False, "mute": False, "flags": 0},
            }
        self.deliver(event)
        return event

    def deliver(self, event: dict[str, Any]) -> None:
        """Deliver an event."""
        self.outgoing.put_nowait(self._event("MESSAGE_CREATE", event))

    def _message(self, channel: str, text: str, author: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": str(next(self.ids)), "channel_id": channel, "author": author, "content": text, "type": 0,
            "timestamp": "2026-01-01T00:00:00+00:00", "edited_timestamp": None, "tts": False, "pinned": False,
            "mention_everyone": False, "mentions": [], "mention_roles": [], "attachments": [], "embeds": [],
        }  # fmt: skip

    def _event(self, name: str, data: dict[str, Any]) -> dict[str, Any]:
        return {"op": 0, "t": name, "s": next(self._sequence), "d": data}

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        match request.path.removeprefix("/api/v10").split("/")[1:]:
            case ["gateway"]:
                self._pack, self._ready = _packer(request.query.get("compress")), asyncio.Event()
                return await self._send_outgoing(request, {"op": 10, "d": {"heartbeat_interval": 45_000}})
            case ["cdn", name]:
                return web.Response(body=self.files[name])
            case ["channels", channel, "typing"]:
                self.typing.append(channel)
                is_broken = not self.typing_shown.is_set()
                await self.typing_shown.wait()
                return web.Response(status=403 if is_broken else 204)
            case ["channels", channel, "messages"]:
                return await self._posted(request, channel)
            case ["users", "@me"]:
                return _json(self.bot)
        assert request.path.endswith("/oauth2/applications/@me")
        return _json(self.application)

    async def _posted(self, request: web.BaseRequest, channel: str) -> web.Response:
        if self._is_busy():
            body = {"message": "You are being rate limited.", "retry_after": 0.01, "global": False}
            return _json(body, status=429, headers={"Via": "1.1 google"})
        if request.content_type == "multipart/form-data":
            form = await request.post()
            file = form["files[0]"]
            assert isinstance(file, web.FileField)
            self.sent.append(SentMessage(channel, file=(file.filename, file.file.read())))
            return _json(self._message(channel, "", self.bot))
        body = await request.json()
        assert body["allowed_mentions"]["parse"] == []
        self.sent.append(SentMessage(channel, body["content"]))
        self.nonces.append(body.get("nonce") if body.get("enforce_nonce") else None)
        if self._is_lost():
            return web.Response(status=502)
        return _json(self._message(channel, body["content"], self.bot))

    async def _push(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        await socket.send_bytes(self._pack(json.dumps(message).encode()))

    async def _handle(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        if message["op"] == 1:
            await self._push(socket, {"op": 11})
        if message["op"] == 2:
            ready = {
                "v": 10, "user": self.bot, "guilds": [], "session_id": "s", "application": {"id": "1", "flags": 0},
                "resume_gateway_url": f"{self.url}/gateway",
            }  # fmt: skip
            await self._push(socket, self._event("READY", ready))
            await self._push(socket, self._event("GUILD_CREATE", self.guild))
            self._ready.set()


def _has_disconnected(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()


class Telegram(Platform):
    """The Bot API, with long polling: an update is delivered until the bot asks for those after it."""

    def __init__(self) -> None:
        super().__init__()
        self._updates: list[dict[str, Any]] = []

    def write(self, chat: int, text: str, *, files: dict[str, bytes] | None = None, user: int = 2) -> dict[str, Any]:
        """Let a user write in a chat; return the message, which can be delivered again."""
        message = {**self._message(chat), "from": {"id": user, "is_bot": False, "first_name": "Ada"}}
        for name, data in (files or {}).items():
            self.files[name] = data
            message["document"] = {"file_id": name, "file_unique_id": name, "file_name": name}
        message["caption" if files else "text"] = text
        if text.startswith("/"):
            message["entities"] = [{"type": "bot_command", "offset": 0, "length": len(text)}]
        self.deliver(message)
        return message

    def deliver(self, message: dict[str, Any]) -> None:
        """Deliver a message."""
        self._updates.append({"update_id": next(self.ids), "message": message})

    def _message(self, chat: int) -> dict[str, Any]:
        return {"message_id": next(self.ids), "date": 1_775_000_000, "chat": {"id": chat, "type": "private"}}

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        *_, token, name = request.path.split("/")
        if token.startswith("botfile") or "/file/" in request.path:
            return web.Response(body=self.files[name])
        form = dict(await request.post())
        if name == "sendMessage" and self._is_busy():
            body = {"ok": False, "error_code": 429, "description": "Too Many Requests"}
            return web.json_response({**body, "parameters": {"retry_after": 1}}, status=429)
        if name == "sendChatAction":
            await self.typing_shown.wait()
        result = await self._updates_after(request, form) if name == "getUpdates" else self._call(name, form)
        return web.json_response({"ok": True, "result": result})

    async def _updates_after(self, request: web.BaseRequest, form: dict[str, Any]) -> list[dict[str, Any]]:
        offset = int(form.get("offset", 0))
        self._updates = [update for update in self._updates if update["update_id"] >= offset]
        while not self._updates and self.is_open and not _has_disconnected(request):  # noqa: ASYNC110 - no event
            await asyncio.sleep(_CHECK_INTERVAL)
        return self._updates

    def _call(self, method: str, form: dict[str, Any]) -> Any:
        match method:
            case "getMe":
                return {"id": 1, "is_bot": True, "first_name": "Agent", "username": "agent_bot"}
            case "sendChatAction":
                self.typing.append(form["chat_id"])
                return True
            case "getFile":
                return {"file_id": form["file_id"], "file_unique_id": form["file_id"], "file_path": form["file_id"]}
            case "sendMessage":
                self.sent.append(SentMessage(form["chat_id"], form["text"]))
                return {**self._message(int(form["chat_id"])), "text": form["text"]}
            case "sendDocument":
                file = form[form["document"].removeprefix("attach://")]
                self.sent.append(SentMessage(form["chat_id"], file=(file.filename, file.file.read())))
                return self._message(int(form["chat_id"]))
        raise AssertionError(method)


class Slack(Platform):
    """The Web API, and Socket Mode."""

    def write(
        self, channel: str, text: str, *, thread: str | None = None, kind: str = "app_mention", **more: Any
    ) -> dict[str, Any]:
        """Let a user write in a channel; return the event, which can be delivered again."""
        event = {"type": kind, "user": "U2", "text": text, "channel": channel, "ts": f"{next(self.ids)}.0001"} | more
        if thread:
            event["thread_ts"] = thread
        self.deliver(event)
        return event

    def share(self, name: str, data: bytes) -> dict[str, Any]:
        """Store a file, and return its description as events contain it."""
        self.files[name] = data
        return {"id": "F1", "name": name, "url_private": f"{self.url}/private/{name}"}

    def deliver(self, event: dict[str, Any]) -> None:
        """Deliver an event."""
        payload = {"type": "event_callback", "team_id": "T1", "event": event, "authorizations": []}
        envelope = {"type": "events_api", "envelope_id": str(next(self.ids)), "payload": payload}
        self.outgoing.put_nowait({**envelope, "accepts_response_payload": False})

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        *_, folder, name = request.path.split("/")
        match folder:
            case "socket":
                return await self._send_outgoing(request, {"type": "hello"})
            case "private":
                assert request.headers["Authorization"] == "Bearer xoxb-bot"
                return web.Response(body=self.files[name])
            case "upload":
                self.files[name] = await request.read()
                return web.Response()
        if name == "chat.postMessage" and self._is_busy():
            return web.json_response({"ok": False, "error": "ratelimited"}, status=429, headers={"Retry-After": "0"})
        form = {**request.query, **await request.post()}
        if request.content_type == "application/json":
            form = await request.json()
        result = {"ok": True, **self._call(name, form)}
        if name == "chat.postMessage" and self._is_lost():
            assert request.transport is not None
            request.transport.close()
        return web.json_response(result)

    def _call(self, method: str, form: dict[str, Any]) -> dict[str, Any]:
        match method:
            case "auth.test":
                return {"url": self.url, "team": "T", "user": "agent", "team_id": "T1", "user_id": "U1", "bot_id": "B1"}
            case "apps.connections.open":
                return {"url": f"{self.url.replace('http', 'ws')}/socket/1"}
            case "assistant.threads.setStatus":
                self.typing.append(form["channel_id"])
                return {}
            case "chat.postMessage":
                text = form.get("markdown_text") or form["text"]
                self.sent.append(SentMessage(f"{form['channel']} {form['thread_ts']}", text))
                return {"channel": form["channel"], "ts": f"{next(self.ids)}.0002"}
            case "files.getUploadURLExternal":
                return {"upload_url": f"{self.url}/upload/{form['filename']}", "file_id": form["filename"]}
            case "files.completeUploadExternal":
                name = json.loads(form["files"])[0]["id"] if isinstance(form["files"], str) else form["files"][0]["id"]
                chat = f"{form['channel_id']} {form['thread_ts']}"
                self.sent.append(SentMessage(chat, file=(name, self.files[name])))
                return {"files": [{"id": name}]}
        raise AssertionError(method)


def _packer(wanted: str | None) -> Callable[[bytes], bytes]:
    """Return what packs the messages of one gateway connection, in the way that the client asked for.

    discord.py asks for zstd wherever the interpreter can unpack it, which is from Python 3.14 on.
    """
    if wanted == "zstd-stream":
        zstd: Any = importlib.import_module("compression.zstd")
        frames = zstd.ZstdCompressor()
        return lambda message: frames.compress(message, zstd.ZstdCompressor.FLUSH_BLOCK)
    stream = zlib.compressobj()
    return lambda message: stream.compress(message) + stream.flush(zlib.Z_SYNC_FLUSH)
