"""`nairi-async agents`, `conversations`, `messages`, `upload` and `download`: one row for each resource."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from datetime import UTC
from typing import TYPE_CHECKING, Any

from nairi_async._core.json_body import json_line
from nairi_async.cli.connection import open_session
from nairi_async.cli.formatting import clock_time, message_entry, one_line
from nairi_async.cli.screen import Screen
from nairi_async.cli.table import Table
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Coroutine
    from datetime import datetime

    from nairi_async._nairi.session import NairiSession
    from nairi_async.cli.screen import Style


def agents(options: Namespace) -> None:
    """Run the command `agents`."""
    _run(_agents, options)


def conversations(options: Namespace) -> None:
    """Run the command `conversations`."""
    _run(_conversations, options)


def messages(options: Namespace) -> None:
    """Run the command `messages`."""
    _run(_messages, options)


def upload(options: Namespace) -> None:
    """Run the command `upload`."""
    _run(_upload, options)


def download(options: Namespace) -> None:
    """Run the command `download`."""
    if options.stdout and len(options.ids) > 1:
        raise InvalidArgumentError("--stdout takes only one id: download one file at a time")
    _run(_download, options)


def _run(command: Callable[[NairiSession, Namespace], Coroutine[Any, Any, None]], options: Namespace) -> None:
    session = open_session(options)

    async def run() -> None:
        async with session as nairi:
            await command(nairi, options)

    asyncio.run(run())


async def _agents(nairi: NairiSession, options: Namespace) -> None:
    listed = await nairi.agents()
    screen = Screen.on(sys.stdout)
    if options.json:
        for agent in listed:
            screen.show(json_line(agent))
        return
    rows = [(agent.agent_id, agent.id, agent.name, agent.description or "") for agent in listed]
    table = Table(screen, ("AGENT", "ID", "NAME", "DESCRIPTION"))
    table.fit(rows)
    for row in rows:
        table.show(*row)


async def _conversations(nairi: NairiSession, options: Namespace) -> None:
    screen = Screen.on(sys.stdout)
    table = Table(screen, ("JOB", "STATUS", "UPDATED"), is_cuttable=False)
    count = 0
    async for row in nairi.conversations(options.agent, status=options.status, sort=options.sort):
        if options.json:
            screen.show(json_line(row))
        else:
            cells = (row.id, row.status, timestamp(row.updated_at, screen.style))
            table.fit([cells, ("", "abandoned", "")])
            table.show(*cells)
        count += 1
        if count == options.limit:
            return


async def _messages(nairi: NairiSession, options: Namespace) -> None:
    screen = Screen.on(sys.stdout)
    for message in await nairi.messages(options.job, progress=options.progress):
        entry = message_entry(message, clock_time(message.created_at), screen.style)
        screen.show(json_line(message) if options.json else entry)


async def _upload(nairi: NairiSession, options: Namespace) -> None:
    screen = Screen.on(sys.stdout)
    table = Table(screen, ("ID", "FILE"))
    for name in options.files:
        stdin = sys.stdin.buffer if name == "-" and sys.stdin is not None else None
        filename = options.filename or (None if stdin is None else "stdin")
        attachment_id = await nairi.upload(name if stdin is None else stdin, filename=filename)
        table.fit([(attachment_id, name)])
        if options.json:
            screen.show(_json(attachment_id=attachment_id, file=name))
        else:
            table.show(attachment_id, name)


async def _download(nairi: NairiSession, options: Namespace) -> None:
    screen = Screen.on(sys.stdout)
    for attachment_id in options.ids:
        file = await nairi.download(attachment_id)
        if options.stdout:
            sys.stdout.buffer.write(file.data)
            sys.stdout.buffer.flush()
            return
        path = await file.save(options.directory, overwrite=options.overwrite)
        if options.json:
            screen.show(_json(id=file.id, filename=file.filename, path=str(path), bytes=len(file.data)))
        else:
            screen.show(one_line(str(path)))


def timestamp(at: datetime | None, style: Style) -> str:
    """Return a time: local and to the minute on a terminal; elsewhere in RFC 3339, in UTC and to the second."""
    if at is None:
        return ""
    if style.width is None:
        return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    # Not every time zone has the first and last day of the calendar.
    with suppress(OverflowError, OSError, ValueError):
        return f"{at.astimezone():%Y-%m-%d %H:%M}"
    return f"{at:%Y-%m-%d %H:%M}"


def _json(**fields: object) -> str:
    return json.dumps(fields, ensure_ascii=True)
