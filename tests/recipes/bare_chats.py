"""What the bots take from nairi_async, with bare aiohttp and the documentation's loop: made for a comparison."""

# It has the names that the recipes import, so that they run on it unchanged. It does not retry, does not know a message
# that comes twice, and forgets what ran when the process died.

import asyncio
import base64
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

INTERVAL = 2.0


class NairiError(Exception):
    pass


class AlreadyAskedError(NairiError):
    pass


class SessionClosedError(NairiError):
    pass


class NairiSession:
    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {os.environ['NAIRI_API_KEY']}"}
        timeout = aiohttp.ClientTimeout(30)
        self.http = aiohttp.ClientSession(os.environ["NAIRI_BASE_URL"], headers=headers, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()

    async def call(self, method: str, path: str, **options: Any) -> Any:
        try:
            async with self.http.request(method, f"/api/public/v1/{path}", **options) as answer:
                if answer.status >= 400:
                    raise NairiError(f"{answer.status} {await answer.text()}")
                return await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise NairiError(str(error)) from error


class SQLiteStore(dict[str, str]):
    def __init__(self, path: str) -> None:
        self.path = Path(path)
        super().__init__(json.loads(self.path.read_text()) if self.path.exists() else {})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def save(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self))
        part.replace(self.path)


@dataclass
class File:
    filename: str
    fetch: Callable[[], Awaitable[bytes]]


@dataclass
class Attachment:
    filename: str
    data: bytes


@dataclass
class Reply:
    pieces: list[str]
    files: list[Attachment]

    async def attachments(self) -> list[Attachment]:
        return self.files


ChatReply = Reply
LostPrompt = object


def visitor_message(_: NairiError) -> str:
    return "Please try again later."


def utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def split(text: str, limit: int, length: Callable[[str], int]) -> list[str]:
    pieces, piece, fence = [], "", ""
    for line in text.split("\n"):
        rest = line
        while length(f"{piece}{rest}\n```\n") > limit:
            room = limit - length(f"{piece}\n```\n")
            if piece.strip() and piece != fence:
                pieces.append(f"{piece}```" if fence else piece)
                piece = fence
                continue
            cut = room // 2 if length is not len else room
            pieces.append(f"{piece}{rest[:cut]}\n```" if fence else rest[:cut])
            rest = rest[cut:]
        piece += f"{rest}\n"
        if line.lstrip().startswith("```"):
            fence = "" if fence else f"{line.strip()}\n"
    return [*pieces, piece] if piece.strip() else pieces


class Chats:
    def __init__(
        self,
        session: NairiSession,
        agent: str,
        *,
        store: SQLiteStore,
        limit: int,
        length: Callable[[str], int] = len,
        typing_every: float = 4.0,
    ) -> None:
        self.session, self.agent, self.store = session, agent, store
        self.limit, self.length, self.typing_every = limit, length, typing_every
        self.locks: dict[str, asyncio.Lock] = {}

    async def forget(self, chat: str) -> None:
        self.store.pop(chat, None)
        self.store.save()

    def recovering(self, *_: object) -> nullcontext[None]:
        return nullcontext()

    @asynccontextmanager
    async def turn(
        self, chat: str | int, prompt: str, *, attachments: list[File], typing: Any, **_: Any
    ) -> AsyncGenerator[Reply]:
        async with self.locks.setdefault(str(chat), asyncio.Lock()):
            async with self.shown(typing):
                ids = [await self.upload(file) for file in attachments]
                reply = await self.ask(str(chat), prompt, ids)
            yield reply

    @asynccontextmanager
    async def shown(self, typing: Any) -> AsyncGenerator[None]:
        async def repeat() -> None:
            while True:
                await typing()
                await asyncio.sleep(self.typing_every)

        is_context = isinstance(typing, AbstractAsyncContextManager)
        task = None if is_context else asyncio.create_task(repeat())
        try:
            async with typing if is_context else nullcontext():
                yield
        finally:
            if task:
                task.cancel()

    async def upload(self, file: File) -> str:
        form = aiohttp.FormData()
        form.add_field("file", await file.fetch(), filename=file.filename)
        uploaded = await self.session.call("POST", "attachments", data=form)
        return str(uploaded["attachment_id"])

    async def ask(self, chat: str, prompt: str, ids: list[str]) -> Reply:
        body: dict[str, Any] = {"prompt": prompt, "attachment_ids": ids}
        if chat in self.store:
            turn = await self.session.call("POST", f"conversations/{self.store[chat]}/continue", json=body)
        else:
            turn = await self.session.call("POST", "conversations/start", json={**body, "agent_id": self.agent})
            self.store[chat] = turn["job_id"]
            self.store.save()
        while True:
            message = await self.session.call("GET", f"messages/{turn['message_id']}")
            if message["status"] in {"completed", "failed"}:
                break
            await asyncio.sleep(INTERVAL)
        listed = await self.session.call("GET", f"conversations/{turn['job_id']}/messages")
        entries = listed["messages"]
        begin = next(index for index, entry in enumerate(entries) if entry["id"] == turn["message_id"])
        said = [entry for entry in entries[begin + 1 :] if entry["role"] == "assistant"]
        if message["status"] == "failed":
            raise NairiError("the turn failed")
        files = [await self.download(file) for entry in said for file in entry.get("attachment_ids", [])]
        text = "\n\n".join(entry["content"] for entry in said)
        return Reply(split(text, self.limit, self.length), files)

    async def download(self, file: str) -> Attachment:
        answer = await self.session.call("GET", f"attachments/{file}")
        return Attachment(answer["filename"], base64.b64decode(answer["data"]))
