"""A prompt and its reply, from either service: Starlette, `uvicorn dialogue_app:app`."""

# Whoever reaches this application spends your organisation's money, with all tools of the agent: put a sign-in in front
# of it before others can reach it. The ids that visitors get are signed: nobody continues a dialogue by its bare id.

import hmac
import json
import os
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from nairi_async import NairiError, NairiSession
from nairi_async.dialogue import Answer, Dialogue, Dialogues
from nairi_async.typing import Duration
from nairi_async.web import EventStreams, error_json, http_status

HOSTS = os.environ.get("HOSTS", "127.0.0.1 localhost").split()
SECRET = os.environ.get("SECRET", secrets.token_hex()).encode()
MAX_BODY = 64 * 1024


async def json_of(request: Request) -> object:
    """Read the body; refuse what a page of another website can send, and what is too large."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "The body must be application/json.")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers["host"]:
        raise HTTPException(403, "The request comes from another website.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, "The message is too long.")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "A prompt is needed.") from error


def proof(dialogue_id: str) -> str:
    return hmac.digest(SECRET, dialogue_id.encode(errors="surrogatepass"), "sha256").hex()


def signed(dialogue_id: str) -> str:
    return f"{dialogue_id}.{proof(dialogue_id)}"


def checked(signed_id: str) -> str:
    dialogue_id, _, given = signed_id.rpartition(".")
    if not given.isascii() or not hmac.compare_digest(proof(dialogue_id), given):
        raise HTTPException(404, "You have no such dialogue.")
    return dialogue_id


class SignedDialogue:
    """A dialogue that shows its signed id."""

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue

    @property
    def id(self) -> str | None:
        return None if self.dialogue.id is None else signed(self.dialogue.id)

    @property
    def may_be_running(self) -> bool:
        return self.dialogue.may_be_running

    async def wait_for_id(self) -> str:
        return signed(await self.dialogue.wait_for_id())

    async def ask(self, prompt: str, *, timeout: Duration | None = 3600) -> Answer:
        return await self.dialogue.ask(prompt, timeout=timeout)


def application(session: Callable[[], AbstractAsyncContextManager[Dialogues]], target: str) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, object]]:
        async with session() as dialogues, EventStreams(max_streams=200) as streams:
            yield {"dialogues": dialogues, "streams": streams}

    async def ask(request: Request) -> StreamingResponse:
        dialogues: Dialogues = request.state.dialogues
        streams: EventStreams = request.state.streams
        match await json_of(request):
            case {"prompt": str(prompt), "id": str(id)}:
                dialogue = dialogues.resume(checked(id))
            case {"prompt": str(prompt)}:
                dialogue = dialogues.conversation(target)
            case _:
                raise HTTPException(400, "A prompt is needed.")
        stream = streams.ask(SignedDialogue(dialogue), prompt)
        return StreamingResponse(stream, headers=stream.headers)

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, NairiError)
        return JSONResponse(error_json(error), http_status(error))

    return Starlette(
        routes=[Route("/ask", ask, methods=["POST"])],
        lifespan=lifespan,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)],
        exception_handlers={NairiError: failed},
    )


app = application(NairiSession, "my-agent")
