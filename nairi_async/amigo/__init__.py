"""Conversations with the services of Amigo (now Concurrence), in asyncio: replies stream as typed events.

Amigo is Concurrence now: addresses, credentials and package names have kept the name Amigo. This is the classic API
(https://docs.amigo.ai/developer-guide/classic-api/core-api/conversations), not the Platform API, another product with
its own addresses.

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
  `max_connections` wait; short calls have connections of their own. The agent may be silent for `idle_timeout=`
  (300 s). Closing the session ends streams and wakes all calls that wait.
* **All handles of a conversation know the same**: after a stop, the next call waits for the rest of the turn, up to
  `idle_timeout`; a conversation that is busy is never reported as finished.
* **Calls wait for their turn**: one at a time in a conversation, and no more a minute to each endpoint than the
  service takes (`limits=Limits(…)`). The processes of your organisation share these limits, so give each its part.
* **One unfinished conversation for each user and service**; the service allows no more.
  `await amigo.unfinished(service_id)` finds the conversation that is in the way. `ask` and `ask_many` finish each
  conversation before the next begins.
* A program written against `nairi_async.dialogue` (`ask`, `id`, `resume`) serves both services.

## Many visitors

Because of that limit each visitor is a user of the organisation. One session serves them all: `as_user` gives cheap
handles over its connections, its limits and its one queue of sign-ins. 200 visitors who come at once are all served, in
the 40 minutes that 5 conversations a minute take, and none is refused; a session for each visitor serves 10 of them.

```python
import asyncio

from nairi_async.amigo import AmigoSession, AmigoToken
from nairi_async.testing import AmigoSimulator


class Tokens:  # a store of tokens; yours writes them where it keeps passwords
    kept: dict[str, AmigoToken] = {}

    async def load(self, user_id: str) -> AmigoToken | None:
        return self.kept.get(user_id)

    async def save(self, user_id: str, token: AmigoToken) -> None:
        self.kept[user_id] = token


async def main() -> None:
    async with AmigoSimulator("It is on its way.", users=["admin"]) as service:
        async with AmigoSession(**service.settings, tokens=Tokens()) as amigo:
            [support] = await amigo.services(id=service.service_id)  # or name="Support"
            visitor = await amigo.create_user("ann@example.com", first_name="Ann", last_name="Lee", role_name="Visitor")
            reply = await amigo.as_user(visitor.user_id).ask(support.id, "Where is my order?")
            print(reply.text)
            await amigo.update_user(visitor.user_id, preferred_language="deu")
            assert [user.first_name async for user in amigo.users(email="ann@example.com")] == ["Ann"]
            await amigo.delete_user(visitor.user_id)


asyncio.run(main())
```

* **A visitor who asks once costs three requests**: the sign-in, the conversation with the prompt, and its end, without
  which the service refuses the visitor's next one. `as_user(id).conversation(service_id).ask(…)` costs two, and leaves
  the conversation open for what the visitor says next; `unfinished` finds it again.
* **A token is kept until it expires**, whichever handle asked for it, and with `tokens=` over a restart. The service
  allows 5 sign-ins a minute: without a store, a restart with 200 open conversations takes 40 minutes to sign in again.
* **A key signs in only users whose role is less permissive than its own**
  (https://docs.amigo.ai/developer-guide/getting-started/authentication).

## After a restart

Keep the conversation's `id` as soon as `wait_for_id()` returns it. The process that comes next finds the reply to what
was said before, without saying anything again:

```python
import asyncio

from nairi_async.amigo import AmigoSession
from nairi_async.testing import VirtualClock
from nairi_async.testing.amigo import AmigoSimulator, Complete, Speak


async def main() -> None:
    clock = VirtualClock()
    script = [Speak("It is on its way."), Complete(after=60)]
    async with AmigoSimulator(script, clock=clock) as service:
        async with AmigoSession(**service.settings, clock=clock) as amigo:
            dialogue = amigo.conversation(service.service_id)
            await dialogue.send("Where is my order?")
            kept = service.asked[0].conversation_id  # as from `await dialogue.wait_for_id()`
        async with AmigoSession(**service.settings, clock=clock) as amigo:  # another process
            reply = await amigo.resume(kept).last_reply()  # after=… the last reply that is known
            assert reply and reply.text == "It is on its way."


asyncio.run(main())
```

`last_reply` waits for as long as the service may be silent, and raises `InteractionUnknownError` where a turn may still
be running. `nairi_async.bots.Chats` uses it: a bot's lost reply is sent after a restart, as with Nairi.

## Webhooks and insights

`Webhooks(secret).read(body, headers)` verifies a webhook and returns a typed event. A wrong signature, a body that was
changed, a delivery that is old or comes again are errors of their own, all `WebhookError`. While a secret is rotated,
give both. `conversation_insights(id)` iterates over the insights of a whole conversation.

## Compared with the vendor's Python client

What `amigo_sdk` 2.5.0 does, seen by running it against the simulator in November 2026:

| it | this library |
| --- | --- |
| fails stream 101 after 10 s with a timeout of its pool | streams beyond `max_connections` wait |
| signs in 3 to 13 times for twenty refused calls | signs in once, for all calls that wait |
| signs in for each call if a token lives less than five minutes | renews a token shortly before it expires |
| fails after an unknown event, a missing field or a raw U+2028 | hands it over, and goes on |
| ends silently if the stream ends early | `InteractionUnknownError`; `settle()` looks up what was kept |

An event takes a third of its instructions where each is an HTTP chunk of its own, and as many where 200 share one.
Method and figures: `benchmarks/README.md` in the repository.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nairi_async._core.exports import lazy as _lazy

if TYPE_CHECKING:
    from typing import Any

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
    from nairi_async.amigo.listing import AmigoConversations, AmigoInsights, AmigoMessages, AmigoServices, AmigoUsers
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
    from nairi_async.amigo.webhooks import (
        ConversationPostProcessingComplete,
        WebhookError,
        WebhookEvent,
        WebhookExpiredError,
        WebhookReplayedError,
        Webhooks,
        WebhookSignatureError,
    )

__all__ = [
    "AmigoAskMany",
    "AmigoConversation",
    "AmigoConversations",
    "AmigoInsights",
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
    "ConversationPostProcessingComplete",
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
    "WebhookError",
    "WebhookEvent",
    "WebhookExpiredError",
    "WebhookReplayedError",
    "WebhookSignatureError",
    "Webhooks",
]

# The modules of what is exported. A program imports only those that it uses.
_HOMES = {
    "conversation": ("AmigoConversation",),
    "directory_models": ("CreatedUser", "ServiceInfo", "UserInfo", "UserStats"),
    "events": (
        "ConversationCreated",
        "CurrentAgentAction",
        "ErrorEvent",
        "Event",
        "InteractionComplete",
        "NewMessage",
        "UnknownEvent",
        "UserMessageAvailable",
    ),
    "limits": ("Limits",),
    "listing": ("AmigoConversations", "AmigoInsights", "AmigoMessages", "AmigoServices", "AmigoUsers"),
    "many": ("AmigoAskMany",),
    "models": (
        "AmigoMessage",
        "AmigoOutcome",
        "AmigoReply",
        "ConversationInfo",
        "Insights",
        "MessageSource",
        "Starter",
        "VersionSetInfo",
    ),
    "session": ("AmigoSession",),
    "stream": ("AmigoStream",),
    "tokens": ("AmigoToken", "TokenStore"),
    "user": ("AmigoUser",),
    "webhooks": (
        "ConversationPostProcessingComplete",
        "WebhookError",
        "WebhookEvent",
        "WebhookExpiredError",
        "WebhookReplayedError",
        "WebhookSignatureError",
        "Webhooks",
    ),
}
_load = _lazy(globals(), {name: home for home, names in _HOMES.items() for name in names})


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("_"))]


if not TYPE_CHECKING:  # or checkers would believe that every name exists

    def __getattr__(name: str) -> Any:
        return _load(name)
