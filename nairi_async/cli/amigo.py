"""`nairi-async amigo`: conversations with Amigo's services, whose replies are printed as they stream."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nairi_async._core.json_body import json_line
from nairi_async.amigo import AmigoSession, NewMessage
from nairi_async.cli.arguments import PROGRAM
from nairi_async.cli.connection import key_of_file
from nairi_async.cli.conversation import read_prompt
from nairi_async.cli.formatting import clean, clock_time, spoken_entry
from nairi_async.cli.resources import timestamp
from nairi_async.cli.screen import Screen
from nairi_async.cli.table import Table
from nairi_async.errors import BadRequestError, NairiError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Coroutine

    from nairi_async.amigo import AmigoStream

_SPEAKERS = {"user-message": "user", "agent-message": "assistant", "external-event": "system"}


def create(options: Namespace) -> None:
    """Run the command `amigo create`."""
    prompt = _prompt(options)
    _run(options, lambda amigo: _create(amigo, prompt, options))


def ask(options: Namespace) -> None:
    """Run the command `amigo ask`."""
    prompt = _prompt(options) or ""
    _run(options, lambda amigo: _stream(amigo.interact(options.conversation, prompt, timeout=options.timeout), options))


def finish(options: Namespace) -> None:
    """Run the command `amigo finish`."""
    _run(options, lambda amigo: amigo.finish(options.conversation))


def list_(options: Namespace) -> None:
    """Run the command `amigo list`."""
    _run(options, lambda amigo: _list(amigo, options))


def messages(options: Namespace) -> None:
    """Run the command `amigo messages`."""
    _run(options, lambda amigo: _messages(amigo, options))


def services(options: Namespace) -> None:
    """Run the command `amigo services`."""
    _run(options, lambda amigo: _services(amigo, options))


def _run(options: Namespace, command: Callable[[AmigoSession], Coroutine[Any, Any, None]]) -> None:
    session = AmigoSession(key_of_file("AMIGO_API_KEY"), base_url=options.base_url, trust_env=True)

    async def run() -> None:
        async with session as amigo:
            await command(amigo)

    asyncio.run(run())


def _prompt(options: Namespace) -> str | None:
    # Read before the event loop runs: while it runs, the first Ctrl-C would not interrupt the reading.
    return None if options.prompt is None else read_prompt(options.prompt)


async def _create(amigo: AmigoSession, prompt: str | None, options: Namespace) -> None:
    try:
        await _stream(amigo.create_conversation(options.service, prompt, timeout=options.timeout), options)
    except BadRequestError:
        # The service allows a user one unfinished conversation of a service.
        before = None
        with suppress(NairiError):
            before = await amigo.unfinished(options.service)
        if before is not None:
            steps = f"{PROGRAM} amigo ask {before.id} PROMPT, or: {PROGRAM} amigo finish {before.id}"
            Screen.on(sys.stderr).show(clean(f"Conversation {before.id} of this service is unfinished: {steps}"), "dim")
        raise


async def _stream(stream: AmigoStream, options: Namespace) -> None:
    out, err = Screen.on(sys.stdout), Screen.on(sys.stderr)
    has_text = False
    try:
        async with stream:
            async for event in stream:
                if isinstance(event, NewMessage) and event.message and not options.json:
                    has_text = True
                    out.stream.write(clean(event.message))
                    out.stream.flush()
            reply = await stream.reply()
    finally:
        if has_text:
            out.show("")
        if stream.conversation_id is not None:
            err.show(clean(f"conversation {stream.conversation_id}"), "dim")
            if not stream.is_saved:
                again = f"{PROGRAM} amigo messages {stream.conversation_id}"
                err.show(clean(f"To see what was kept: {again}"), "dim")
    if options.json:
        out.show(json_line(reply))
    elif not has_text and reply.text:
        out.show(clean(reply.text))
    if reply.conversation_completed:
        err.show("The agent has ended the conversation.", "dim")


async def _list(amigo: AmigoSession, options: Namespace) -> None:
    screen = Screen.on(sys.stdout)
    table = Table(screen, ("CONVERSATION", "SERVICE", "CREATED", "MESSAGES", "STATE"), is_cuttable=False)
    is_finished = False if options.open else None
    count = 0
    async for row in amigo.conversations(
        service_id=options.service or (), is_finished=is_finished, sort_by="-created_at"
    ):
        if options.json:
            screen.show(json_line(row))
        else:
            state = "finished" if row.is_finished else "open"
            number = "" if row.num_messages is None else str(row.num_messages)
            cells = (row.id, row.service_id, timestamp(row.created_at, screen.style), number, state)
            table.fit([cells, ("", "", "", "", "finished")])
            table.show(*cells)
        count += 1
        if count == options.limit:
            return


async def _messages(amigo: AmigoSession, options: Namespace) -> None:
    screen = Screen.on(sys.stdout)
    async for message in amigo.messages(options.conversation):
        role = _SPEAKERS.get(message.message_type, message.message_type)
        entry = spoken_entry(role, message.message, clock_time(message.created_at), screen.style)
        screen.show(json_line(message) if options.json else entry)


async def _services(amigo: AmigoSession, options: Namespace) -> None:
    screen = Screen.on(sys.stdout)
    table = Table(screen, ("SERVICE", "NAME"))
    async for service in amigo.services():
        if options.json:
            screen.show(json_line(service))
        else:
            table.fit([(service.id, service.name)])
            table.show(service.id, service.name)
