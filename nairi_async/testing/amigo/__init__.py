"""A simulated Amigo, whose conversations stream, and the steps of which its scripts are made.

Streams pause, break off, fail or hang, in virtual time, the session's `idle_timeout=` included. Here the stream
breaks off while the agent continues, and `settle()` finds the whole reply:

```python
import asyncio

from nairi_async import InteractionUnknownError
from nairi_async.amigo import AmigoSession
from nairi_async.testing import VirtualClock
from nairi_async.testing.amigo import AmigoSimulator, Cut, Speak


async def main() -> None:
    clock = VirtualClock()
    script = [Speak("Your order", after=200), Cut(), Speak(" is on its way.", after=20)]
    async with AmigoSimulator(script, clock=clock) as service, AmigoSession(**service.settings, clock=clock) as amigo:
        stream = amigo.create_conversation(service.service_id, "Where is my order?")
        try:
            await stream.reply()
        except InteractionUnknownError as error:
            print(error)
        reply = await stream.settle()
        assert reply and reply.text == "Your order is on its way."
        assert [asked.message for asked in service.asked] == ["Where is my order?"]


asyncio.run(main())
```
"""

from __future__ import annotations

from nairi_async.testing.amigo.quirks import AmigoQuirks
from nairi_async.testing.amigo.script import Action, Complete, Cut, Error, Hang, Line, Speak, Think
from nairi_async.testing.amigo.simulator import AmigoSimulator
from nairi_async.testing.amigo.timeline import RecordedInteraction

__all__ = [
    "Action",
    "AmigoQuirks",
    "AmigoSimulator",
    "Complete",
    "Cut",
    "Error",
    "Hang",
    "Line",
    "RecordedInteraction",
    "Speak",
    "Think",
]
