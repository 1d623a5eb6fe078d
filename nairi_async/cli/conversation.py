"""`nairi-async ask`, `continue` and `watch`: one turn or one conversation, from a shell."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from nairi_async._core.json_body import json_line
from nairi_async._nairi.results import Reply
from nairi_async.cli.connection import open_session
from nairi_async.cli.formatting import clean, clock_time, message_entry, usage_text, watch_command
from nairi_async.cli.narrator import Narrator
from nairi_async.cli.screen import Screen
from nairi_async.clock import SystemClock
from nairi_async.errors import InvalidArgumentError, NairiError, TurnFailedError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Awaitable, Callable

    from nairi_async._nairi.session import NairiSession
    from nairi_async.models import Message, Turn


def ask(options: Namespace) -> None:
    """Run the command `ask`."""
    _send(
        options, lambda nairi, prompt: nairi.start(options.agent, prompt, ask_mode=options.ask_mode, **_files(options))
    )


def continue_(options: Namespace) -> None:
    """Run the command `continue`."""
    _send(options, lambda nairi, prompt: nairi.continue_(options.job, prompt, **_files(options)))


def watch(options: Namespace) -> None:
    """Run the command `watch`."""
    asyncio.run(_watch(open_session(options), options))


def _send(options: Namespace, send: Callable[[NairiSession, str], Awaitable[Turn]]) -> None:
    nairi = open_session(options)
    # Read before the event loop runs: while it runs, the first Ctrl-C would not interrupt the reading.
    prompt = read_prompt(options.prompt)
    asyncio.run(_ask(nairi, lambda nairi: send(nairi, prompt), options))


async def _ask(session: NairiSession, send: Callable[[NairiSession], Awaitable[Turn]], options: Namespace) -> None:
    out, err = Screen.on(sys.stdout), Screen.on(sys.stderr)
    narrator = Narrator(err, SystemClock())
    async with session as nairi:
        turn = await send(nairi)
        err.show(clean(f"job {turn.job_id}"), "dim")
        try:
            reply = await _reply(nairi, turn, narrator, options)
        except NairiError as error:
            error.turn = turn
            raise
        except asyncio.CancelledError:
            again = watch_command(turn.job_id, turn.message_id, options.base_url)
            err.show(f"\nThe agent continues. See what it does: {again}")
            raise
    out.show(json_line(reply) if options.json else clean(reply.text))
    facts = (f"completed in {narrator.elapsed:.1f} s", usage_text(reply.usage), files_text(reply))
    err.show("; ".join(fact for fact in facts if fact), "dim")


async def _reply(nairi: NairiSession, turn: Turn, narrator: Narrator, options: Namespace) -> Reply:
    if options.progress:

        def show(message: Message) -> None:
            if message.role != "assistant":
                narrator.show_message(message)

        watched = nairi.watch(turn, progress=True, timeout=options.timeout)
        return Reply.of(turn, await narrator.follow(watched, show))
    reply = await nairi.reply(turn, timeout=options.timeout)
    for message in reply.messages:
        if message.role != "assistant":
            narrator.show_message(message)
    return reply


async def _watch(session: NairiSession, options: Namespace) -> None:
    out, err = Screen.on(sys.stdout), Screen.on(sys.stderr)
    narrator = Narrator(err, SystemClock())
    cursor: str | None = options.after

    def show(message: Message) -> None:
        nonlocal cursor
        out.show(
            json_line(message) if options.json else message_entry(message, clock_time(message.created_at), out.style)
        )
        cursor = message.id or cursor

    async with session as nairi:
        watched = nairi.watch(
            options.job,
            after=options.after,
            follow=options.follow,
            progress=options.progress,
            timeout=options.timeout,
        )
        try:
            if options.progress:
                await narrator.follow(watched, show)
            else:
                async for message in watched:
                    show(message)
        except asyncio.CancelledError:
            err.show("")  # The terminal has just shown ^C.
            raise
        finally:
            if cursor is not None:
                err.show(f"To go on from here: {watch_command(options.job, cursor, options.base_url)}", "dim")
    if watched.status == "failed":
        raise TurnFailedError("the last turn of the conversation failed")


def read_prompt(given: str) -> str:
    """Return the prompt, which `-` reads from standard input."""
    if given != "-":
        return given
    try:
        return "" if sys.stdin is None else sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"the prompt on standard input is not {error.encoding} text") from error


def files_text(reply: Reply) -> str:
    """Return the ids of a reply's files; empty if it has none."""
    return clean(f"files: {', '.join(reply.attachment_ids)}") if reply.attachment_ids else ""


def _files(options: Namespace) -> dict[str, Any]:
    return {"attachment_ids": options.attachment_ids, "attachments": options.attachments}
