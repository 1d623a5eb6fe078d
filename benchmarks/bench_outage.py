"""How many requests a second a thousand waiting conversations send to a service that comes back after an outage.

Run `python benchmarks/bench_outage.py`; it takes a minute or two. The service answers 503 with `Retry-After` for a
minute, in virtual time over real HTTP; requests are counted by the service, second by second.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from nairi_async import NairiSession, Turn
from nairi_async.testing import Done, Simulator, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

COUNT = 1_000
BEGIN = 10.0
END = 70.0
SECONDS = (1, 2, 5, 10)
INTERVAL = 2.0


class Outage:
    """Refuses everything between two times, with the time left in `Retry-After`."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.received_at: list[float] = []

    async def __call__(self, _request: web.Request) -> web.Response | None:
        """Refuse, or let the service answer."""
        now = self._clock.monotonic()
        self.received_at.append(now)
        if not BEGIN <= now < END:
            return None
        headers = {"Retry-After": str(math.ceil(END - now))}
        return web.json_response({"error": "unavailable"}, status=503, headers=headers)


async def naive(simulator: Simulator, clock: VirtualClock, message_ids: list[str]) -> None:
    """Poll as the documentation's loop does, patched in the usual way: each conversation obeys the header by itself."""
    headers = {"Authorization": f"Bearer {simulator.api_key}"}
    async with aiohttp.ClientSession(simulator.url, headers=headers) as http:

        async def wait(message_id: str) -> None:
            await clock.sleep(random.uniform(0, INTERVAL))
            while True:
                async with clock.timeout(30), http.get(f"/api/public/v1/messages/{message_id}") as response:
                    body: dict[str, Any] = await response.json()
                if response.status == 200 and body["status"] in {"completed", "failed"}:
                    return
                await clock.sleep(float(response.headers.get("Retry-After", INTERVAL)))

        await asyncio.gather(*map(wait, message_ids))


def ours(**options: Any) -> Callable[[Simulator, VirtualClock, list[str]], Awaitable[None]]:
    """Return a client that waits for the same turns with this library."""

    async def wait(simulator: Simulator, clock: VirtualClock, message_ids: list[str]) -> None:
        async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, **options) as nairi:
            by_message = {asked.message_id: asked for asked in simulator.prompts}
            turns = [Turn(by_message[one].job_id, one) for one in message_ids]
            await asyncio.gather(*(nairi.wait(turn) for turn in turns))

    return wait


async def measure(name: str, client: Callable[[Simulator, VirtualClock, list[str]], Awaitable[None]]) -> None:
    """Let a thousand conversations wait through the outage, and print one row."""
    clock = VirtualClock()
    async with Simulator(clock=clock) as simulator:
        simulator.agent("my-agent", [Done(after=90.0)])
        async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as nairi:
            turns = await asyncio.gather(*(nairi.start("my-agent", f"Prompt {number}") for number in range(COUNT)))
        outage = Outage(clock)
        simulator.intercept = outage
        await client(simulator, clock, [turn.message_id for turn in turns])
    after = Counter(int(received_at - END) for received_at in outage.received_at if received_at >= END)
    during = sum(BEGIN <= received_at < END for received_at in outage.received_at)
    before = sum(BEGIN - 10 <= received_at < BEGIN for received_at in outage.received_at) / 10
    peaks = [max((after[second] for second in range(until)), default=0) for until in SECONDS]
    print(f"| {name} | {before:.0f} | {during} | " + " | ".join(str(peak) for peak in peaks) + " |")


async def main() -> None:
    """Print the table."""
    print("| client | before, a second | during | " + " | ".join(f"worst of {n} s" for n in SECONDS) + " |")
    await measure("each obeys by itself", naive)
    await measure("ours", ours())
    await measure("ours, 20 a second", ours(requests_per_second=20))


if __name__ == "__main__":
    asyncio.run(main())
