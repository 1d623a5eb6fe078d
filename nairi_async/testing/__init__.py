"""For tests of programs that use `nairi_async`: simulated services, scripted agents, faults and virtual time.

With pytest the fixtures are there: `nairi`, a session on `nairi_simulator`; both share `nairi_clock`, which jumps
over waits. They work with anyio's plugin, which is installed with this library, and with pytest-asyncio, strict or
automatic. `@pytest.mark.nairi_simulator(faults=FaultPlan(rate=0.25))` sets the options of a test's simulator. A
fixture `nairi_options` of your own returns settings of the session, such as `{"polling": Polling(delay=5)}`. A test
that is marked for anyio needs pytest-asyncio in strict mode, its default.

Without pytest. Give the same clock to both sides; otherwise the test never ends:

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

`AmigoSimulator` plays the streaming service; the steps of its scripts are in `nairi_async.testing.amigo`. For
programs in other processes, in any language, `nairi-async simulate` prints the two variables to set.
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
from nairi_async.testing.simulator import Simulator
from nairi_async.testing.state import RecordedPrompt

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
    "Simulator",
    "Step",
    "Subagent",
    "Text",
    "Thinking",
    "Tool",
    "VirtualClock",
    "in_memory_session",
]
