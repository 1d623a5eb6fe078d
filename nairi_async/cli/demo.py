"""`nairi-async demo`: one conversation with a scripted agent, over real HTTP, without a key or an account."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

from nairi_async._nairi.results import Reply
from nairi_async._nairi.session import NairiSession
from nairi_async.cli.formatting import usage_text
from nairi_async.cli.narrator import Narrator
from nairi_async.cli.screen import Screen
from nairi_async.clock import SystemClock
from nairi_async.models import Usage
from nairi_async.testing import Done, Notice, Say, Simulator, Text, Thinking, Tool, VirtualClock

if TYPE_CHECKING:
    from argparse import Namespace

    from nairi_async.clock import Clock
    from nairi_async.models import Turn
    from nairi_async.testing.script import Steps

_AGENT: Final = "refund-agent"
_QUEUED: Final = 0.4
_PROMPTS: Final = ("Refund the failed charge for cus_123.", "Also send an apology email.")

_REFUND: Final[Steps] = (
    Thinking("A failed charge may still have been captured: look before refunding.", after=0.2),
    Tool("Bash", input="stripe charges list --customer cus_123", output="ch_1042  49.00 USD  captured", seconds=0.5),
    Tool("Bash", input="stripe refunds create --charge ch_1042", output="re_2077  succeeded", seconds=0.6, after=0.2),
    Say(
        "Charge ch_1042 had failed in the shop but was captured by the bank.\n"
        "I refunded the 49.00 USD (re_2077); the customer has them back in 5 to 10 days.",
        after=0.3,
        usage={"input_tokens": 2310, "output_tokens": 214, "cost_usd": 0.0231, "model": "simulated"},
    ),
)
_APOLOGY: Final[Steps] = (
    Text("I will tell the customer what went wrong and when the money is back.", after=0.2),
    Tool("SendEmail", input="cus_123: Your refund of 49.00 USD", output="em_0031 accepted", seconds=0.6, after=0.2),
    Say(
        "The apology is on its way (em_0031), with the date by which the refund arrives.",
        after=0.2,
        usage={"input_tokens": 2604, "output_tokens": 131, "cost_usd": 0.0172, "model": "simulated"},
    ),
    Done(),
    Notice("Email em_0031 was delivered.", after=0.5),
)

_ENDING: Final = f"""
The same with an agent of your own:

  export NAIRI_API_KEY=nr_...
  nairi-async ask AGENT "{_PROMPTS[0]}" --progress

In Python:

  async with NairiSession() as nairi:
      turn = await nairi.start("AGENT", "{_PROMPTS[0]}")
      async for message in nairi.watch(turn):
          print(message.role, message.content)"""


def demo(options: Namespace) -> None:
    """Run the command `demo`."""
    asyncio.run(_demo(VirtualClock() if options.fast else SystemClock()))


async def _demo(clock: Clock) -> None:
    screen = Screen.on(sys.stdout)
    async with Simulator(clock=clock) as simulator:
        simulator.agent(_AGENT, _script, queued=_QUEUED, name="Refunds")
        screen.show(f"A simulated Nairi service answers on {simulator.url}: real HTTP, no account needed.\n", "dim")
        narrator = Narrator(screen, clock)
        async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as nairi:
            turn: Turn | None = None
            replies: list[Reply] = []
            for prompt in _PROMPTS:
                narrator.show_text("user", prompt)
                turn = await (nairi.start(_AGENT, prompt) if turn is None else nairi.continue_(turn.job_id, prompt))
                watch = nairi.watch(turn, progress=True)
                replies.append(Reply.of(turn, await narrator.follow(watch, narrator.show_message)))
                screen.show("")
        used = usage_text(Usage.total(reply.usage for reply in replies))
        requests = len(simulator.requests)
        screen.show(f"{len(replies)} turns in {narrator.elapsed:.1f} s with {requests} requests: {used}.", "bold")
    screen.show(_ENDING)


def _script(_prompt: str, turn_number: int) -> Steps:
    return _REFUND if turn_number == 1 else _APOLOGY
