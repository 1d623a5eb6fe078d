"""`nairi-async simulate`: the simulated services, for programs in any language."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from nairi_async._core.api_key import ApiKey
from nairi_async.cli.formatting import clean, clock_time
from nairi_async.cli.screen import Screen
from nairi_async.errors import InvalidArgumentError
from nairi_async.testing import (
    AmigoSimulator,
    FaultPlan,
    ScriptFileError,
    Simulator,
    load_amigo_scripts,
    load_scripts,
)
from nairi_async.testing.amigo.script import default_script as amigo_default_script
from nairi_async.testing.script import default_script
from nairi_async.testing.script_file import slowed

if TYPE_CHECKING:
    from argparse import Namespace

    from aiohttp import web

    from nairi_async.testing.script import Script

_NAIRI_KEY: Final = "nr_simulator"
_AMIGO_KEY: Final = "amigo_simulator"


def simulate(options: Namespace) -> None:
    """Run the command `simulate`."""
    key = options.api_key
    if key is not None:
        ApiKey(key).check("--api-key is empty")
    try:
        simulator, note = amigo_service(options) if options.amigo else nairi_service(options)
    except ScriptFileError as error:
        raise InvalidArgumentError(str(error)) from error
    with suppress(KeyboardInterrupt):
        asyncio.run(_simulate(simulator, note))


def nairi_service(options: Namespace) -> tuple[Simulator, str]:
    """Return a simulated Nairi, and what to say about it."""
    scripts = load_scripts(options.script) if options.script is not None else {}
    simulator = Simulator(
        host=options.host,
        port=options.port,
        api_key=options.api_key or _NAIRI_KEY,
        agents=_paced(scripts, options),
        default=slowed(default_script, options.slow) if options.slow else default_script,
        strict_agents=options.strict_agents,
        concurrency=options.concurrency,
        faults=FaultPlan(rate=options.faults or 0.0, seed=options.seed),
    )
    agents = ", ".join(dict.fromkeys(("my-agent", *scripts)))
    others = "Others do not exist." if options.strict_agents else "Any other agent is created when it is first used."
    return simulator, f"Agents: {agents}. {others} Ctrl-C stops the service."


def amigo_service(options: Namespace) -> tuple[AmigoSimulator, str]:
    """Return a simulated Amigo, and what to say about it."""
    if options.strict_agents or options.concurrency is not None:
        raise InvalidArgumentError("--strict-agents and --concurrency are for Nairi: leave them out with --amigo")
    scripts = _paced(load_amigo_scripts(options.script) if options.script is not None else {}, options)
    simulator = AmigoSimulator(
        slowed(amigo_default_script, options.slow) if options.slow else amigo_default_script,
        host=options.host,
        port=options.port,
        api_key=options.api_key or _AMIGO_KEY,
        faults=_amigo_faults(options),
    )
    named = {"the default one": simulator.service_id}
    named |= {name: simulator.service(script, name=name) for name, script in scripts.items()}
    services = ", ".join(f"{service_id} ({name})" for name, service_id in named.items())
    return simulator, f"Services: {services}. Ctrl-C stops the service."


def _amigo_faults(options: Namespace) -> FaultPlan:
    # A stream that has begun cannot be changed: its own scripts cut it, or let it hang.
    share = (options.faults or 0.0) / 4
    rates: dict[Any, float] = dict.fromkeys(("reset before", "error before", "rate limited", "unavailable"), share)
    return FaultPlan(rates=rates if share else {}, seed=options.seed)


def _paced(scripts: dict[str, Script], options: Namespace) -> dict[str, Script]:
    if not options.slow:
        return scripts
    return {name: slowed(script, options.slow) for name, script in scripts.items()}


async def _simulate(simulator: Simulator | AmigoSimulator, note: str) -> None:
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

    async with simulator:
        simulator.intercept_response = log
        environment = simulator.environment
        # The address first, as it is what changes.
        for name in sorted(environment, key=lambda name: not name.endswith("_BASE_URL")):
            out.show(f"export {name}={shlex.quote(environment[name])}")
        err.show(clean(note), "dim")
        await stopped
        err.show(f"\nStopped after {len(simulator.requests)} requests.", "dim")
