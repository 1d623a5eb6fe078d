"""A prompt and its answer, from whichever service: Starlette, `uvicorn dialogue_app:app`."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from nairi_async import NairiError, NairiSession
from nairi_async.dialogue import Dialogues
from nairi_async.web import EventStreams, error_json, http_status


def application(session: Callable[[], AbstractAsyncContextManager[Dialogues]], target: str) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, object]]:
        async with session() as dialogues, EventStreams() as streams:
            yield {"dialogues": dialogues, "streams": streams}

    async def ask(request: Request) -> StreamingResponse:
        dialogues: Dialogues = request.state.dialogues
        streams: EventStreams = request.state.streams
        match await request.json():
            case {"prompt": str(prompt), "id": str(id)}:
                stream = streams.ask(dialogues.resume(id), prompt)
            case {"prompt": str(prompt)}:
                stream = streams.ask(dialogues.conversation(target), prompt)
            case _:
                raise HTTPException(400, "a prompt is needed")
        return StreamingResponse(stream, headers=stream.headers)

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, NairiError)
        return JSONResponse(error_json(error), http_status(error))

    return Starlette(
        routes=[Route("/ask", ask, methods=["POST"])], lifespan=lifespan, exception_handlers={NairiError: failed}
    )


app = application(NairiSession, "my-agent")
