"""`nairi-async simulate`: the simulated service, for programs in any language."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from nairi_async._core.api_key import ApiKey
from nairi_async.cli.formatting import clean, clock_time
from nairi_async.cli.screen import Screen
from nairi_async.testing import Simulator

if TYPE_CHECKING:
    from argparse import Namespace

    from aiohttp import web


def simulate(options: Namespace) -> None:
    """Run the command `simulate`."""
    ApiKey(options.api_key).check("--api-key is empty")
    with suppress(KeyboardInterrupt):
        asyncio.run(_simulate(options))


async def _simulate(options: Namespace) -> None:
    out, err = Screen.on(sys.stdout), Screen.on(sys.stderr)
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)

    # Windows has no such handlers; there Ctrl-C raises KeyboardInterrupt.
    with suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGINT, stop)
        loop.add_signal_handler(signal.SIGTERM, stop)

    async def log(request: web.Request, response: web.StreamResponse) -> None:
        now = clock_time(datetime.now(UTC))
        try:
            err.show(clean(f"{now}  {response.status}  {request.method:<6} {request.rel_url.raw_path_qs}"))
        except OSError as error:
            # The reader of the log is gone: the end, as for any program in a pipe.
            if not stopped.done():
                stopped.set_exception(error)

    async with Simulator(host=options.host, port=options.port, api_key=options.api_key) as simulator:
        simulator.intercept_response = log
        out.show(f"export NAIRI_BASE_URL={simulator.url}")
        out.show(f"export NAIRI_API_KEY={shlex.quote(simulator.api_key)}")
        err.show(
            "The agent is my-agent; any other agent is created when it is first used. Ctrl-C stops the service.", "dim"
        )
        await stopped
        err.show(f"\nStopped after {len(simulator.requests)} requests.", "dim")
