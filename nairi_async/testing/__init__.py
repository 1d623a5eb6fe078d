"""For tests of programs that use `nairi_async`: simulated services, scripted agents, faults and virtual time.

With pytest the fixtures are there: `nairi`, a session on `nairi_simulator`, and `amigo`, a session on
`amigo_simulator`; they share `nairi_clock`, which jumps over waits. They work with anyio's plugin, which is installed
with this library, and with pytest-asyncio, strict or automatic. `@pytest.mark.nairi_simulator(faults=FaultPlan(
rate=0.25))` sets the options of a test's simulator, `@pytest.mark.amigo_simulator(script="Hello.")` those of Amigo's. A
fixture `nairi_options`, or `amigo_options`, of your own returns settings of the session, such as `{"polling":
Polling(delay=5)}`. The fixtures run on the test's own event loop, of any scope. A test that is marked for anyio needs
pytest-asyncio in strict mode, its default, and fails with that sentence otherwise; its runs on trio are skipped.

Code that makes its own session is tested in real time: `nairi_environment` is a simulator in a thread, to which
`NAIRI_API_KEY` and `NAIRI_BASE_URL` are set; `amigo_environment` is the same for Amigo. Both work in any test, also in
one that is not a coroutine, such as those of FastAPI's `TestClient`:

```python
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from nairi_async import NairiSession
from nairi_async.testing import Simulator


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, NairiSession]]:
    async with NairiSession() as nairi:
        yield {"nairi": nairi}


app = FastAPI(lifespan=lifespan)


@app.get("/ask")
async def ask(request: Request, prompt: str) -> str:
    nairi: NairiSession = request.state.nairi
    return (await nairi.ask("refunds", prompt)).text


def test_the_app(nairi_environment: Simulator) -> None:
    nairi_environment.agent("refunds", "Refunded.")
    with TestClient(app) as client:
        assert client.get("/ask", params={"prompt": "Refund cus_123."}).json() == "Refunded."
    nairi_environment.assert_asked("Refund cus_123.")


@pytest.mark.anyio  # or pytest.mark.asyncio
async def test_a_session_of_its_own(nairi_environment: Simulator) -> None:
    nairi_environment.agent("refunds", "Refunded.")
    async with NairiSession() as nairi:
        assert (await nairi.ask("refunds", "Refund cus_123.")).text == "Refunded."
```

And a test of Amigo, in virtual time:

```python
import pytest
from nairi_async import InteractionVoidError
from nairi_async.amigo import AmigoSession
from nairi_async.testing.amigo import AmigoSimulator, Error, Speak


@pytest.mark.anyio  # or pytest.mark.asyncio
@pytest.mark.amigo_simulator(script=[Speak("One moment", every=30), Error()])
async def test_an_interaction_that_fails(amigo: AmigoSession, amigo_simulator: AmigoSimulator) -> None:
    with pytest.raises(InteractionVoidError):
        await amigo.create_conversation(amigo_simulator.service_id, "Hello").reply()
```

Without pytest. Give the same clock to both sides: polls of a session with another one are refused with an error that
says so, since virtual time stands still for them:

```python
import asyncio

from nairi_async import NairiSession
from nairi_async.testing import Notice, Say, Simulator, Tool, VirtualClock


async def main() -> None:
    clock = VirtualClock()
    async with Simulator(clock=clock) as simulator:
        simulator.agent("refunds", [Tool("Bash", input="grep cus_123", seconds=600), Say("Refunded."), Notice("PR #7")])
        async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as nairi:
            reply = await nairi.ask("refunds", "Refund cus_123.")
        assert reply.text == "Refunded."
        assert [asked.prompt for asked in simulator.prompts] == ["Refund cus_123."]
        assert clock.monotonic() >= 600


asyncio.run(main())
```

A script is a text, a list of steps (`Say`, `Notice`, `Tool`, `Thinking`, `Done`, `Fail`, …), or a function of the
prompt and the number of the turn that returns either. `Quirks` has a setting for each thing that the service's
documentation leaves open: the order and times of lists, stale reads, replies that come before or after their status,
and more.

A `FaultPlan` makes requests fail, the same ones in each run: cut connections before or after the prompt was taken,
hangs, rate limits, error pages, responses that are slow, short, garbled or out of date. With `rate=0.25` a quarter
of all requests fail, in every way; `rates=` selects some ways, and `script=` plays them in order. Then check what ran:

```python
import asyncio

from nairi_async import NairiSession, OutcomeUnknownError
from nairi_async.testing import FaultPlan, Simulator, VirtualClock


async def main() -> None:
    clock, plan = VirtualClock(), FaultPlan(where="POST", script=["rate limited", "hang after"])
    async with (
        Simulator(clock=clock, faults=plan) as simulator,
        NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as nairi,
    ):
        try:
            await nairi.ask("my-agent", "Refund cus_123.")
        except OutcomeUnknownError:  # the prompt was taken, and its response never came
            print("not asked again")
    simulator.assert_asked("Refund cus_123.")
    assert [request.fault for request in simulator.requests] == ["rate limited", "hang after"]


asyncio.run(main())
```

`in_memory_session` reaches a simulator without a server or sockets: a bot's tests then need no network, and thousands
of turns take a second. With the fixtures, `@pytest.mark.nairi_simulator(in_memory=True)` does the same.

```python
import asyncio

from nairi_async.testing import Simulator, VirtualClock, in_memory_session


async def main() -> None:
    simulator = Simulator(clock=VirtualClock())
    async with in_memory_session(simulator) as nairi:
        assert await nairi.ask("my-agent", "Refund cus_123.")
    simulator.assert_asked("Refund cus_123.")


asyncio.run(main())
```

`AmigoSimulator` plays the streaming service; the steps of its scripts are in `nairi_async.testing.amigo`.
`Simulator(concurrency=1)` has agents that run one turn at a time, as the vendor's daemon does by default.

For programs in other processes, in any language, `nairi-async simulate` prints the variables to set; `in_thread` runs a
simulator next to your test. `--script FILE` reads what agents do from a file of JSON, as `load_scripts` does:

```json
{
  "my-agent": [{"tool": "Bash", "input": "ls", "seconds": 2}, {"say": "Refunded.", "after": 1}],
  "twice": {"turns": ["First reply.", [{"fail": "out of disk", "after": 3}]]},
  "words": {"prompts": {"refund": "Refunded.", "": "What do you mean?"}},
  "endless": [{"thinking": "Hm."}, {"done": true, "after": "never"}]
}
```

What test plugins really do, seen by running each in November 2026, and what the fixtures do about it:

| what | what it does | what is done |
| --- | --- | --- |
| anyio 4.16.0 and pytest-asyncio 1.5.0 | automatic mode: a test and its fixtures run on two loops | an error names it |
| pytest-asyncio 1.5.0 | ends a fixture in another task: a task group in it fails | the fixtures hold none |
| asyncio, anyio | a child that raises when cancelled hides the `TimeoutError` | sessions have no child tasks |
"""

from __future__ import annotations

from nairi_async.testing.amigo import AmigoQuirks, AmigoSimulator, RecordedInteraction
from nairi_async.testing.clock import VirtualClock
from nairi_async.testing.faults import FaultPlan
from nairi_async.testing.in_memory import in_memory_session
from nairi_async.testing.middleware import RecordedRequest
from nairi_async.testing.quirks import Quirks
from nairi_async.testing.script import (
    Done,
    Fail,
    Notice,
    Progress,
    Say,
    Step,
    Subagent,
    Text,
    Thinking,
    Tool,
)
from nairi_async.testing.script_file import ScriptFileError, load_amigo_scripts, load_scripts
from nairi_async.testing.simulator import Simulator
from nairi_async.testing.state import RecordedPrompt
from nairi_async.testing.thread import in_thread

__all__ = [
    "AmigoQuirks",
    "AmigoSimulator",
    "Done",
    "Fail",
    "FaultPlan",
    "Notice",
    "Progress",
    "Quirks",
    "RecordedInteraction",
    "RecordedPrompt",
    "RecordedRequest",
    "Say",
    "ScriptFileError",
    "Simulator",
    "Step",
    "Subagent",
    "Text",
    "Thinking",
    "Tool",
    "VirtualClock",
    "in_memory_session",
    "in_thread",
    "load_amigo_scripts",
    "load_scripts",
]
