"""Amigo's streamed conversations: the vendor's own client compared with this library.

    python benchmarks/bench_amigo.py            # a few minutes
    python benchmarks/bench_amigo.py --quick    # fewer rounds and streams

Both clients (and, as a floor, bare aiohttp and json) talk to the same simulated service, which runs in a process of its
own. Each measurement is a process of its own too; rounds alternate between the clients, and medians are shown. CPU is
that of the client's process, so the speed of the service does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
from amigo_service import Remote, amigo_service

from nairi_async.amigo import AmigoSession, AmigoStream, Limits
from nairi_async.testing import VirtualClock
from nairi_async.testing.amigo import AmigoQuirks, AmigoSimulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CLIENTS = ("vendor", "ours")
IMPORTS = {"vendor": "amigo_sdk.sdk_client", "ours": "nairi_async.amigo", "bare": "aiohttp"}
_HELD_FOR = 12.0


class Client(Protocol):
    """One way to talk to the service."""

    def events(self, message: str, **options: Any) -> AsyncIterator[Any]:
        """Begin a conversation with a message, and give the events of its stream."""
        ...

    async def listing(self) -> object:
        """Read the list of conversations."""
        ...

    async def finish(self, conversation_id: str) -> None:
        """Finish a conversation."""
        ...


class Ours:
    """This library."""

    def __init__(self, session: AmigoSession, service_id: str) -> None:
        self.session, self._service = session, service_id
        self.settings: object = session

    def stream(self, message: str, **options: Any) -> AmigoStream:
        """Return the stream of a new conversation."""
        return self.session.create_conversation(self._service, message, **options)

    async def events(self, message: str, **options: Any) -> AsyncIterator[Any]:
        """As documented: a block around the iteration."""
        async with self.stream(message, **options) as stream:
            async for event in stream:
                yield event

    async def begin_only(self, message: str) -> None:
        """Await the call, and read nothing."""
        await self.stream(message)

    async def leave(self, stream: AmigoStream) -> None:
        """Do what the end of an `async with` block does."""
        await stream.aclose()

    async def listing(self) -> object:
        """Read the first page."""
        async for one in self.session.conversations():
            return one
        return None

    async def finish(self, conversation_id: str) -> None:
        """One call."""
        await self.session.finish(conversation_id)


class Vendor:
    """The vendor's client."""

    def __init__(self, client: Any, service_id: str) -> None:
        from amigo_sdk.generated import model  # noqa: PLC0415 - only in processes that measure it

        self.client, self._service, self._model = client, service_id, model
        self.settings: object = client.config

    def _call(self, message: str, **options: Any) -> Any:
        body = self._model.ConversationCreateConversationRequest.model_validate(
            {
                "service_id": self._service,
                "service_version_set_name": "release",
                "initial_message": message,
                "initial_message_type": "user-message",
                **options,
            }
        )
        query = self._model.CreateConversationParametersQuery.model_validate({"response_format": "text"})
        return self.client.conversations.create_conversation(body, query)

    async def stream(self, message: str, **options: Any) -> AsyncIterator[Any]:
        """Return the stream of a new conversation."""
        async for event in await self._call(message, **options):
            yield event.root

    events = stream
    """As its own examples do."""

    async def begin_only(self, message: str) -> None:
        """Await the call, and read nothing."""
        self.begun = await self._call(message)

    async def leave(self, stream: object) -> None:
        """Do nothing: it has no block to leave, and a generator that is still referenced stays as it is."""

    async def listing(self) -> object:
        """Read the first page."""
        query = self._model.GetConversationsParametersQuery.model_validate({"limit": 1})
        return await self.client.conversations.get_conversations(query)

    async def finish(self, conversation_id: str) -> None:
        """One call."""
        await self.client.conversations.finish_conversation(conversation_id)


class Bare:
    """aiohttp and json: what nothing on top of aiohttp can be faster than."""

    def __init__(self, http: aiohttp.ClientSession, base: str, service_id: str) -> None:
        self._http, self._base, self._service = http, base, service_id

    async def events(self, message: str, **_options: Any) -> AsyncIterator[Any]:
        """Lines, decoded."""
        body = {"service_id": self._service, "initial_message": message, "initial_message_type": "user-message"}
        url = f"{self._base}/conversation/?response_format=text"
        async with self._http.post(url, json=body) as answer:
            async for line in answer.content:
                yield json.loads(line)


@asynccontextmanager
async def client(name: str, known: dict[str, Any], service_id: str, connections: int = 0) -> AsyncIterator[Any]:
    """Return a client of that name; with its own defaults unless a number of connections is given."""
    if name == "ours":
        pool: dict[str, Any] = {"limits": Limits.none(), **({"max_connections": connections} if connections else {})}
        async with AmigoSession(**known, **pool) as session:
            yield Ours(session, service_id)
    elif name == "vendor":
        import httpx  # noqa: PLC0415 - only in processes that measure it
        from amigo_sdk.sdk_client import AsyncAmigoClient  # noqa: PLC0415

        raised: dict[str, Any] = {"limits": httpx.Limits(max_connections=connections)} if connections else {}
        credentials: dict[str, Any] = dict(known)
        async with AsyncAmigoClient(**credentials, **raised) as made:
            yield Vendor(made, service_id)
    else:
        base = f"{known['base_url']}/v1/{known['organization_id']}"
        headers = {"x-api-key": known["api_key"], "x-api-key-id": known["api_key_id"], "x-user-id": known["user_id"]}
        async with aiohttp.ClientSession() as http:
            async with http.post(f"{base}/user/signin_with_api_key", headers=headers) as answer:
                token = (await answer.json())["id_token"]
            http.headers["Authorization"] = f"Bearer {token}"
            yield Bare(http, base, service_id)


async def consume(talker: Client, message: str) -> int:
    """Read a stream to its end, and count its events."""
    count = 0
    async for _ in talker.events(message):
        count += 1
    return count


async def cpu_per_event(talker: Client, message: str, streams: int) -> float:
    """Microseconds of the process's CPU for each event of so many streams at once, their begin and end included."""
    await consume(talker, "50 0")
    gc.collect()
    started_at = time.process_time()
    counts = await asyncio.gather(*(consume(talker, message) for _ in range(streams)))
    return (time.process_time() - started_at) / sum(counts) * 1e6


async def first_event(talker: Client, times: int) -> float:
    """Milliseconds from the call to the first piece of the reply, median."""
    delays = []
    for _ in range(times):
        started_at, delay = time.perf_counter(), 0.0
        async for event in talker.events("good"):
            kind = event["type"] if isinstance(event, dict) else event.type
            delay = delay or (kind == "new-message" and time.perf_counter() - started_at)
        delays.append(delay)
    return statistics.median(delays[1:]) * 1e3


async def held(talker: Client, streams: int) -> dict[str, float]:
    """Hold so many streams at once, each for twelve seconds: how many, at most, how many failed, at what cost."""
    now = most = failed = 0
    await consume(talker, "2 0")
    gc.collect()
    memory, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()

    async def hold() -> None:
        nonlocal now, most, failed
        is_held = False
        try:
            async for event in talker.events(f"2 {_HELD_FOR}"):
                if not is_held and event.type == "new-message":
                    is_held, now = True, now + 1
                    most = max(most, now)
        except Exception:  # noqa: BLE001 - any error of a client counts
            failed += 1
        now -= is_held

    await asyncio.gather(*(hold() for _ in range(streams)))
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    return {"held": most, "failed": failed, "memory": growth / streams, "cpu": (time.process_time() - cpu) / streams}


async def sign_ins(talker: Client, remote: Remote) -> int:
    """Sign-ins after twenty calls at once whose token is refused, one refusal after another over half a second."""
    await talker.listing()
    before = remote("counts")["sign_ins"]
    remote("expire_tokens", spread=0.5)
    await asyncio.gather(*(talker.listing() for _ in range(20)), return_exceptions=True)
    remote("expire_tokens")
    return int(remote("counts")["sign_ins"] - before)


async def visitors(count: int) -> tuple[int, int, float]:
    """Let so many users of one session each begin a conversation: how many were served, requests, virtual minutes."""
    clock, users = VirtualClock(), [f"visitor-{number}" for number in range(count)]
    quirks = AmigoQuirks(limits="organization", token_lifetime=86_400)
    service = AmigoSimulator("Welcome.", users=["admin", *users], clock=clock, quirks=quirks)
    async with service, AmigoSession(**service.settings, clock=clock) as amigo:
        dialogues = [amigo.as_user(user).conversation(service.service_id) for user in users]
        replies = await asyncio.gather(*(dialogue.ask("Hello") for dialogue in dialogues), return_exceptions=True)
        served = sum(not isinstance(reply, BaseException) for reply in replies)
        return served, amigo.stats.requests, clock.monotonic() / 60


def _alone(task: tuple[str, str, dict[str, str], str, int, tuple[Any, ...]]) -> Any:
    """One measurement in a process of its own."""
    measure, name, known, service_id, connections, arguments = task

    async def main() -> Any:
        async with client(name, known, service_id, connections) as talker:
            return await globals()[measure](talker, *arguments)

    return asyncio.run(main())


def alone(
    measure: Callable[..., Any], name: str, *, remote: Remote, arguments: tuple[Any, ...], connections: int = 0
) -> Any:
    """Run a measurement in a process of its own, and return what it gave."""
    task = (measure.__name__, name, remote.known, remote.service_id, connections, arguments)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_alone, task).result()


def importing(name: str, place: int) -> float:
    """Return what a fresh interpreter takes to import a client: seconds (0), or megabytes of memory in all (1)."""
    code = (
        "import time, resource; t = time.perf_counter(); import " + IMPORTS[name] + "; t = time.perf_counter() - t;"
        "print(t, int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024)"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)  # noqa: S603
    return float(ran.stdout.split()[place])


def medians(rounds: int, names: tuple[str, ...], measure: Callable[[str], Any]) -> dict[str, float]:
    """Measure in turns, and return the median for each name."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(measure(name))
    return {name: statistics.median(values) for name, values in found.items()}


def row(what: str, vendor: object, ours: object, note: str = "", bare: object = "") -> None:
    """Print a row, as soon as it is there."""
    cells = [one if isinstance(one, str) else f"{one:.3g}" for one in (bare, vendor, ours)]
    print(f"{what:<52}{cells[0]:>9}{cells[1]:>12}{cells[2]:>12}  {note}", flush=True)


def ratio(found: dict[str, float]) -> str:
    """Return the part of the vendor's figure that ours takes."""
    return f"{found['ours'] / found['vendor']:.2f} x"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and streams")
    parser.add_argument("--only", default="", help="only rows whose name holds this text")
    options = parser.parse_args()
    rounds, streams = (3, 300) if options.quick else (5, 1000)
    everyone = ("vendor", "ours", "bare")
    print(f"{'':<52}{'bare':>9}{'vendor':>12}{'ours':>12}")
    with amigo_service() as remote:
        for what, message, count in (
            ("CPU per event, 90 replies of 20 pieces (us)", "20 0.05", 90),
            ("CPU per event, 90 replies of 200 pieces (us)", "200 0.02", 90),
            ("CPU per event, one reply, all sent at once (us)", "10000 0", 1),
        ):
            if options.only in what:
                measure = partial(alone, cpu_per_event, remote=remote, arguments=(message, count))
                found = medians(rounds, everyone, measure)
                row(what, found["vendor"], found["ours"], ratio(found), found["bare"])
        if options.only in (what := "time to the first piece (ms)"):
            found = medians(rounds, everyone, partial(alone, first_event, remote=remote, arguments=(40,)))
            row(what, found["vendor"], found["ours"], ratio(found), found["bare"])
        for place, what in enumerate(("import (s)", "memory after the import (MB)")):
            if options.only in what:
                found = medians(rounds, everyone, partial(importing, place=place))
                row(what, found["vendor"], found["ours"], ratio(found), found["bare"])
        for count, connections in ((110, 0), (streams, streams)):
            setting = f"{connections} connections allowed" if connections else "as they come"
            if options.only in (what := f"{count} streams, {setting}"):
                both = {
                    name: alone(held, name, remote=remote, arguments=(count,), connections=connections)
                    for name in CLIENTS
                }
                for key, shown, scale in (
                    ("held", "at once", 1),
                    ("failed", "failed", 1),
                    ("memory", "memory per stream (KB)", 1),
                    ("cpu", "CPU per stream (ms)", 1000),
                ):
                    row(f"{what}: {shown}", *(both[name][key] * scale for name in CLIENTS))
        limit_rows(remote, options.only)


def limit_rows(remote: Remote, only: str) -> None:
    """Print the rows about the service's limits."""
    if only in (what := "200 visitors at 5 sign-ins and conversations a minute"):
        served, requests, minutes = asyncio.run(visitors(200))
        row(f"{what}: served", "", served, f"{requests} requests, {minutes:.0f} minutes of virtual time")
    if only in (what := "sign-ins after 20 refusals spread over 0.5 s"):
        found = medians(3, CLIENTS, partial(refusals, remote=remote))
        row(what, found["vendor"], found["ours"])


def refusals(name: str, remote: Remote) -> int:
    """Count sign-ins in this process, which can talk to the service's."""

    async def count() -> int:
        async with client(name, remote.known, remote.service_id) as talker:
            return await sign_ins(talker, remote)

    return asyncio.run(count())


if __name__ == "__main__":
    main()
