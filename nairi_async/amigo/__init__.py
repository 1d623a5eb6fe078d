"""Conversations with the services of Amigo (now Concurrence), in asyncio: replies stream as typed events.

Addresses, credentials and package names have kept the name Amigo. This is the classic API
(https://docs.amigo.ai/developer-guide/classic-api/core-api/conversations), not the Platform API.

`AmigoSession` signs in by itself and reads the variables that the vendor's client reads: `AMIGO_API_KEY`,
`AMIGO_API_KEY_ID`, `AMIGO_USER_ID`, `AMIGO_ORGANIZATION_ID`, `AMIGO_BASE_URL`.

```python
import asyncio

from nairi_async.amigo import AmigoSession, NewMessage
from nairi_async.testing import AmigoSimulator


async def main() -> None:
    async with AmigoSimulator("It is on its way.") as service, AmigoSession(**service.settings) as amigo:
        async with amigo.create_conversation(service.service_id) as stream:  # the agent speaks first
            async for event in stream:
                if isinstance(event, NewMessage):
                    print(event.message, end="", flush=True)
        conversation = amigo.resume(stream.conversation_id or "")
        reply = await conversation.ask("Where is my order?")  # one turn at a time, in order
        print(reply.text)
        await conversation.finish()


asyncio.run(main())
```

* **A stream never ends silently.** `InteractionVoidError`: nothing was kept, the message may be sent again.
  `InteractionUnknownError`: the stream broke off, and `await stream.settle()` looks among the messages, without
  sending anything; it returns `None` only if it is certain that nothing was kept, and otherwise raises.
  `reply.warning`: the interaction is saved, and only the post-processing failed. Unknown events and broken lines are
  handed over.
* **A stream holds a connection and its conversation** until its end, or until `async with` is left. Streams beyond
  `max_connections` wait. The agent may be silent for `idle_timeout=` (300 s).
* **All handles of a conversation know the same**: after a stop, the next call waits for the rest of the turn, up to
  `idle_timeout`; a conversation that is busy is never reported as finished.
* **Calls wait for their turn**: one at a time in a conversation, and no more a minute to each endpoint than the
  service takes (`limits=Limits(…)`). The processes of your organisation share these limits, so give each its part.
* **One unfinished conversation for each user and service**; the service allows no more. So one session serves one
  chat of a service: make an `AmigoSession(user_id=…)` for each visitor. `await amigo.unfinished(service_id)` finds
  the conversation that is in the way. `ask` and `ask_many` finish each conversation before the next begins.
* A program written against `nairi_async.dialogue` (`ask`, `id`, `resume`) serves both services.

Compared with the vendor's Python client: 0.4 to 0.7 of the CPU for each event where each event is a chunk of its own;
streams beyond the connections wait instead of failing after 10 s; one sign-in for twenty refused calls instead of 3
to 13. Method and figures: `benchmarks/README.md` in the repository.
"""

from __future__ import annotations

from nairi_async.amigo.conversation import AmigoConversation
from nairi_async.amigo.directory_models import CreatedUser, ServiceInfo, UserInfo, UserStats
from nairi_async.amigo.events import (
    ConversationCreated,
    CurrentAgentAction,
    ErrorEvent,
    Event,
    InteractionComplete,
    NewMessage,
    UnknownEvent,
    UserMessageAvailable,
)
from nairi_async.amigo.limits import Limits
from nairi_async.amigo.listing import AmigoConversations, AmigoMessages, AmigoServices, AmigoUsers
from nairi_async.amigo.many import AmigoAskMany
from nairi_async.amigo.models import (
    AmigoMessage,
    AmigoOutcome,
    AmigoReply,
    ConversationInfo,
    Insights,
    MessageSource,
    Starter,
    VersionSetInfo,
)
from nairi_async.amigo.session import AmigoSession
from nairi_async.amigo.stream import AmigoStream
from nairi_async.amigo.tokens import AmigoToken, TokenStore
from nairi_async.amigo.user import AmigoUser

__all__ = [
    "AmigoAskMany",
    "AmigoConversation",
    "AmigoConversations",
    "AmigoMessage",
    "AmigoMessages",
    "AmigoOutcome",
    "AmigoReply",
    "AmigoServices",
    "AmigoSession",
    "AmigoStream",
    "AmigoToken",
    "AmigoUser",
    "AmigoUsers",
    "ConversationCreated",
    "ConversationInfo",
    "CreatedUser",
    "CurrentAgentAction",
    "ErrorEvent",
    "Event",
    "Insights",
    "InteractionComplete",
    "Limits",
    "MessageSource",
    "NewMessage",
    "ServiceInfo",
    "Starter",
    "TokenStore",
    "UnknownEvent",
    "UserInfo",
    "UserMessageAvailable",
    "UserStats",
    "VersionSetInfo",
]
