"""The simulator serves the vendor's own client, so it is not only our idea of the service."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pydantic
import pytest
from attrs import frozen
from support import Lazy

from nairi_async.testing import VirtualClock
from nairi_async.testing.amigo import (
    Action,
    AmigoQuirks,
    AmigoSimulator,
    Complete,
    Cut,
    Error,
    Line,
    Speak,
    Think,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

# By one worker, since its modules take more than a second to import.
pytestmark = pytest.mark.anyio

errors: Any = Lazy("amigo_sdk.errors")
wire: Any = Lazy("amigo_sdk.generated.model")
sdk_client: Any = Lazy("amigo_sdk.sdk_client")

TOOL = {"tool_round_index": 0, "tool_id": "t", "tool_version": "1", "input_params": {"order": 7}}


@frozen
class Vendor:
    """The vendor's client on a simulator, with its objects made from plain values."""

    simulator: AmigoSimulator
    client: Any

    async def create(self, **body: Any) -> list[Any]:
        """Return the events of a new conversation."""
        request = wire.ConversationCreateConversationRequest.model_validate(
            {"service_id": self.simulator.service_id, "service_version_set_name": "release", **body}
        )
        query = wire.CreateConversationParametersQuery.model_validate({"response_format": "text"})
        return [event.root async for event in await self.client.conversations.create_conversation(request, query)]

    async def begin(self) -> str:
        """Return the id of a new conversation."""
        return str((await self.create())[0].conversation_id)

    async def interact(self, conversation_id: str, message: str = "Hi", **options: Any) -> list[Any]:
        """Return the events of a turn."""
        formats = {"request_format": "text", "response_format": "text", **options.pop("query", {})}
        query = wire.InteractWithConversationParametersQuery.model_validate(formats)
        sent = {"text_message": message, **options}
        talk = self.client.conversations.interact_with_conversation
        return [event.root async for event in await talk(conversation_id, query, **sent)]

    async def messages(self, conversation_id: str, **query: Any) -> list[Any]:
        """Return the first page of messages."""
        asked = wire.GetConversationMessagesParametersQuery.model_validate(query)
        page = await self.client.conversations.get_conversation_messages(conversation_id, asked)
        return list(page.messages)

    async def conversations(self, **query: Any) -> Any:
        """Return a page of conversations."""
        asked = wire.GetConversationsParametersQuery.model_validate(query)
        return await self.client.conversations.get_conversations(asked)


@asynccontextmanager
async def vendor(*script: Any, **options: Any) -> AsyncIterator[Vendor]:
    """Run the client on a simulator that begins now, as the client compares expiries with the machine's clock."""
    clock = VirtualClock(time.time())
    async with (
        AmigoSimulator(script or "Hello there", clock=clock, **options) as simulator,
        sdk_client.AsyncAmigoClient(**simulator.settings) as client,
    ):
        yield Vendor(simulator, client)


def names(events: list[Any]) -> list[str]:
    return [event.type for event in events]


async def test_a_conversation_from_begin_to_end() -> None:
    """Begin, go on, finish, list and read: every response passes the client's strict models."""
    async with vendor(Think("Hm."), Action("tool-call-started", TOOL), Speak("Hello there", every=1.0)) as v:
        begun = await v.create()
        assert names(begun) == ["conversation-created", "current-agent-action", *["new-message"] * 2, END]
        talk = await v.interact(begun[0].conversation_id, "Where is my order?")
        assert names(talk) == ["user-message-available", "current-agent-action", *["new-message"] * 2, END]
        assert [event.message for event in talk[2:4]] == ["Hello ", "there"]
        assert talk[-1].full_message == "Hello there"
        assert [asked.message for asked in v.simulator.saved] == ["", "Where is my order?"]
        await v.client.conversations.finish_conversation(begun[0].conversation_id)
        page = await v.conversations(is_finished=True)
        assert [(one.id, one.num_messages) for one in page.conversations] == [(begun[0].conversation_id, 3)]
        message = await v.messages(begun[0].conversation_id)
        assert [one.message for one in message] == ["Hello there", "Where is my order?", "Hello there"]


END = "interaction-complete"


async def test_user_message_and_external_event_begin_a_conversation() -> None:
    """The two other ways to begin."""
    async with vendor() as v:
        begun = await v.create(initial_message="Hi", initial_message_type="user-message")
        await v.client.conversations.finish_conversation(begun[0].conversation_id)
        await v.create(initial_message="Payment failed", initial_message_type="external-event")
        assert [asked.kind for asked in v.simulator.asked] == ["user-message", "external-event"]


async def test_events_and_voice_arrive() -> None:
    """External events with their times, and a voice message whose transcript comes back."""
    async with vendor() as v:
        conversation_id = await v.begin()
        when = datetime(2026, 1, 2, tzinfo=UTC)
        events: dict[str, Any] = {
            "external_event_message_content": ["Paid"],
            "external_event_message_timestamp": [when],
        }
        await v.interact(conversation_id, **events)
        assert v.simulator.asked[-1].events == (("Paid", when),)
        v.simulator.transcribe(lambda audio: f"I message {audio.decode()}")
        query = {
            "request_format": "voice",
            "response_format": "voice",
            "request_audio_config": {"type": "pcm", "frame_rate": 16000, "n_channels": 1, "sample_width": 2},
        }
        spoken = await v.interact(conversation_id, "", query=query, audio_bytes=b"xyz", audio_content_type="audio/wav")
        assert spoken[0].user_message == "I message xyz"
        assert spoken[1].transcript_alignment[1].root == (50, "e")
        source = await v.client.conversations.get_message_source(conversation_id, spoken[0].message_id)
        assert source.content_type == "audio/wav"


async def test_the_small_calls() -> None:
    """Insights, recommended responses, conversation starters."""
    async with vendor(Think("They ask."), Speak("Yes")) as v:
        conversation_id = await v.begin()
        interaction_id = v.simulator.asked[0].interaction_id
        calls = v.client.conversations
        insights = await calls.get_interaction_insights(conversation_id, interaction_id)
        assert insights.reflections == ["They ask."]
        advice = await calls.recommend_responses_for_interaction(conversation_id, interaction_id)
        assert advice.recommended_responses == ["Yes, please.", "No, thank you."]
        wanted = wire.ConversationGenerateConversationStarterRequest.model_validate(
            {
                "service_id": v.simulator.service_id,
                "service_version_set_name": "release",
                "facets": ["sleep", "food"],
                "min_count": 1,
                "max_count": 3,
                "generation_instructions": "short",
            }
        )
        starters = await calls.generate_conversation_starters(wanted)
        assert [one.prompt for one in starters.prompts] == ["Tell me about sleep.", "Tell me about food."]


async def test_refusals() -> None:
    """The rules of the service, as the client's own errors."""
    async with vendor() as v:
        conversation_id = await v.begin()
        with pytest.raises(errors.BadRequestError, match="another unfinished conversation"):
            await v.begin()
        await v.client.conversations.finish_conversation(conversation_id)
        with pytest.raises(errors.ConflictError, match="already finished"):
            await v.interact(conversation_id)
        with pytest.raises(errors.NotFoundError, match="conversation not found"):
            await v.interact("0" * 24)
        with pytest.raises(errors.NotFoundError, match="service"):
            await v.create(service_id="0" * 24)
        v.simulator.refuse(429, on="create")
        with pytest.raises(errors.RateLimitError):
            await v.begin()
        v.simulator.refuse(503, on="finish")
        with pytest.raises(errors.ServiceUnavailableError):
            await v.client.conversations.finish_conversation(conversation_id)


async def test_limits() -> None:
    """With limits on the sixth conversation in a minute is refused, and says when to come back."""
    async with vendor(quirks=AmigoQuirks(limits="organization", one_unfinished=False)) as v:
        for _ in range(5):
            await v.begin()
        with pytest.raises(errors.RateLimitError, match="over 5 requests a minute"):
            await v.begin()


async def test_expired_tokens() -> None:
    """A token that has expired is refused, the client signs in again, and nothing runs twice."""
    async with vendor() as v:
        conversation_id = await v.begin()
        v.simulator.expire_tokens()
        await v.interact(conversation_id)
        await v.messages(conversation_id)
        assert v.simulator.sign_ins == 2
        assert len(v.simulator.asked) == 2
        v.simulator.api_key = "another"
        v.simulator.expire_tokens()
        with pytest.raises(errors.AuthenticationError):
            await v.interact(conversation_id)


async def test_error_events() -> None:
    """An error before completion voids the turn, one after it leaves it saved."""
    async with vendor() as v:
        conversation_id = await v.begin()
        v.simulator.service([Speak("Half"), Error(500, "no")], service_id=v.simulator.service_id)
        assert names(await v.interact(conversation_id))[-2:] == ["new-message", "error"]
        v.simulator.service([Speak("All"), Complete(), Error(500, "late")], service_id=v.simulator.service_id)
        assert names(await v.interact(conversation_id))[-2:] == [END, "error"]
        assert [len(v.simulator.asked), len(v.simulator.saved)] == [3, 2]


# Known errors of the vendor's client, each provoked by the simulator.


async def test_it_does_not_notice_a_stream_that_ends_early() -> None:
    """A body without `interaction-complete` ends its loop without an error."""
    async with vendor(Speak("Half a"), Cut(clean=True)) as v:
        assert names(await v.create()) == ["conversation-created", "new-message", "new-message"]


async def test_it_lets_transport_errors_through() -> None:
    """A connection that breaks is an exception of its HTTP library."""
    async with vendor(Speak("Half a"), Cut()) as v:
        with pytest.raises(httpx.RemoteProtocolError):
            await v.create()


@pytest.mark.parametrize(
    ("script", "quirks"),
    [
        ([Speak("Hi there!")], AmigoQuirks(events="example")),
        ([Line({"type": "brand-new"}), Speak("Hi")], AmigoQuirks()),
        ([Action("dynamic-behavior-triggered"), Speak("Hi")], AmigoQuirks()),
        ([Speak("Line one\u2028line two", pieces=1)], AmigoQuirks()),
    ],
    ids=["example of the documentation", "unknown event", "unknown action", "U+2028"],
)
async def test_its_models_and_its_lines_are_too_strict(script: list[Any], quirks: AmigoQuirks) -> None:
    """Streams that the documentation shows or that JSON allows end in an exception of its model library."""
    async with vendor(*script, quirks=quirks) as v:
        with pytest.raises(pydantic.ValidationError):
            await v.create()
        assert len(v.simulator.saved) == 1


async def test_it_signs_in_again_and_again() -> None:
    """Of refusals that come one after another each discards a token that the one before has fetched."""
    async with vendor() as v:
        await v.conversations()
        stale = v.simulator.sign_ins
        v.simulator.expire_tokens()
        waiting = 0

        async def late(_request: web.Request, response: web.StreamResponse) -> None:
            nonlocal waiting
            if response.status == 401:
                waiting += 1
                for _ in range(waiting * 40):
                    await asyncio.sleep(0)

        v.simulator.intercept_response = late
        await asyncio.gather(*(v.conversations() for _ in range(10)))
        assert v.simulator.sign_ins - stale > 1
