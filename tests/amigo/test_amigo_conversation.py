from __future__ import annotations

import asyncio
import json
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import pytest
import support
from amigo_sessions import COMPLETE, ID, SIGNED_IN, TAKEN, chunked, lines, session
from support import Act, Last, RawServer, answer

from nairi_async import (
    BadRequestError,
    ConflictError,
    InteractionUnknownError,
    InteractionVoidError,
    InvalidArgumentError,
    NairiError,
    NairiSession,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    ServerError,
    WatchTimeoutError,
)
from nairi_async.amigo import InteractionComplete, Limits
from nairi_async.clock import SystemClock
from nairi_async.testing.amigo import AmigoQuirks, AmigoSimulator, Complete, Cut, Error, Hang, Speak

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aiohttp import web

    from nairi_async.amigo import AmigoReply, AmigoSession
    from nairi_async.dialogue import Answer, Dialogue, Dialogues
    from nairi_async.testing import Simulator, VirtualClock
    from nairi_async.testing.amigo.script import Steps

pytestmark = pytest.mark.anyio


async def talk(dialogues: Dialogues, target: str) -> list[str]:
    """Speak to any service, as code for both does."""
    dialogue: Dialogue = dialogues.conversation(target)
    assert dialogue.id is None
    first: Answer = await dialogue.ask("one")
    assert dialogue.id is not None
    second = await dialogues.resume(dialogue.id).ask("two", timeout=60)
    return [first.text, second.text]


async def test_one_program_talks_to_both_services(
    amigo: AmigoSession, service: AmigoSimulator, nairi: NairiSession, simulator: Simulator
) -> None:
    """Code that is written against the protocol serves Nairi and Amigo."""
    simulator.agent("my-agent", lambda prompt, _: f"re {prompt}")
    service.service(lambda message, _: f"re {message}", service_id=service.service_id)
    assert await talk(nairi, "my-agent") == ["re one", "re two"]
    assert await talk(amigo, service.service_id) == ["re one", "re two"]


async def test_a_dialogue_in_order(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Prompts go out one at a time, in the order in which they were awaited; the first begins the conversation."""
    dialogue = amigo.conversation(service.service_id, is_test=True)
    replies = await asyncio.gather(*(dialogue.ask(str(n)) for n in range(4)))
    assert [reply.text for reply in replies] == [f'You said: "{n}"' for n in range(4)]
    assert {reply.conversation_id for reply in replies} == {dialogue.id}
    assert [asked.message for asked in service.asked] == ["0", "1", "2", "3"]
    assert str(dialogue.id) in repr(dialogue)
    assert dialogue.service_id == service.service_id


async def test_the_agent_can_begin(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """A dialogue can begin with the agent, and only begin."""
    dialogue = amigo.conversation(service.service_id)
    assert (await dialogue.begin()).text == "Hello! How can I help?"
    with pytest.raises(InvalidArgumentError, match="has begun"):
        await dialogue.begin()
    assert (await dialogue.ask("Hi")).text


async def test_a_dialogue_streams(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """`send` gives the events, and the handle knows its id as soon as the stream does."""
    dialogue = amigo.conversation(service.service_id)
    async with dialogue.send("Hi") as stream:
        await anext(stream)
        assert dialogue.id == stream.conversation_id is not None
        assert (await stream.reply()).text == 'You said: "Hi"'
    async with amigo.resume(str(dialogue.id)).send("Event", message_type="external-event") as stream:
        assert (await stream.reply()).text == 'You said: "Event"'
    assert [asked.kind for asked in service.asked] == ["user-message", "external-event"]


async def test_two_handles_of_one_conversation_share_its_order(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Handles, and the session's own calls, do not run into each other's turns."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    assert dialogue.id is not None
    other = amigo.resume(dialogue.id)
    await asyncio.gather(dialogue.ask("a"), other.ask("b"), amigo.interact(dialogue.id, "c").reply(), other.ask("d"))
    assert [asked.message for asked in service.asked] == ["", "a", "b", "c", "d"]


async def test_a_new_conversation_begins_with_text(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """What the service takes only later is refused before any request."""
    with pytest.raises(InvalidArgumentError, match="begins with text"):
        await amigo.conversation(service.service_id).send(voice=b"RIFF")
    assert not service.asked


async def test_finishing_a_dialogue(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """A dialogue is finished after its turns; twice, or before it began, is harmless; afterwards nothing is said."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.finish()
    dialogue = amigo.conversation(service.service_id)
    asking = asyncio.ensure_future(dialogue.ask("Hi"))
    await asyncio.sleep(0)
    await dialogue.finish()
    assert (await asking).text == 'You said: "Hi"'
    await dialogue.finish()
    assert dialogue.is_completed
    with pytest.raises(InvalidArgumentError, match="is over"):
        await dialogue.ask("More")
    assert [row.is_finished async for row in amigo.conversations()] == [True]


async def test_an_agent_that_ends_the_conversation(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """A conversation that the agent ended takes no prompt, and is not finished again."""
    service.service(["Bye.", Complete(ends=True)], service_id=service.service_id)
    dialogue = amigo.conversation(service.service_id)
    assert (await dialogue.ask("Bye")).conversation_completed
    assert dialogue.is_completed
    before = amigo.stats.requests
    with pytest.raises(InvalidArgumentError, match="is over"):
        await dialogue.ask("Hello?")
    await dialogue.finish()
    assert amigo.stats.requests == before


@pytest.mark.parametrize("status", [400, 404, 409])
async def test_a_conversation_that_is_over_counts_as_finished(
    status: int, amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """Finishing a conversation that is finished elsewhere, or gone, is no failure."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    async with session(service.url, clock=clock) as other:
        await other.finish(str(dialogue.id))
    service.refuse(status, on="finish", times=9)
    await dialogue.finish()
    assert dialogue.is_completed


@pytest.mark.parametrize(
    ("status", "error"), [(400, BadRequestError), (409, ConflictError), (403, PermissionDeniedError)]
)
async def test_a_conversation_that_is_not_finished_does_not_count_as_finished(
    status: int, error: type[NairiError], amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """A refusal is success only where the conversation is over; a conflict is waited for, within the idle timeout."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    service.refuse(status, on="finish", times=99)
    with pytest.raises(error):
        await dialogue.finish()
    assert clock.monotonic() <= 301
    assert not dialogue.is_completed


async def test_a_void_turn_can_be_said_again(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """After a turn that the service undid, the dialogue goes on."""
    script: Iterator[Steps] = iter(["Hello", [Speak("Le"), Error(503, "busy")], "Fine."])
    service.service(lambda *_: next(script), service_id=service.service_id)
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    with pytest.raises(InteractionVoidError):
        await dialogue.ask("Hi")
    assert (await dialogue.ask("Hi")).text == "Fine."


# The unfinished conversation.


async def test_an_unfinished_conversation_is_found(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """What stands in the way of a new conversation can be gone on with, or finished."""
    assert await amigo.unfinished(service.service_id) is None
    first = amigo.conversation(service.service_id)
    await first.begin()
    with pytest.raises(BadRequestError):
        await amigo.conversation(service.service_id).begin()
    found = await amigo.unfinished(service.service_id)
    assert found is not None
    assert found.id == first.id
    assert (await found.ask("Hi")).text
    await found.finish()
    assert await amigo.unfinished(service.service_id) is None
    assert (await amigo.conversation(service.service_id).begin()).text


# Settling what is unknown.


@pytest.mark.parametrize("known", [True, False])
async def test_a_saved_turn_is_found(known: bool, amigo: AmigoSession, service: AmigoSimulator) -> None:  # noqa: FBT001
    """A turn that broke off and was saved is found, with its reply, and not sent again."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    assert dialogue.id is not None
    if known:
        service.service([Cut(), Speak("Saved.", after=5.0)], service_id=service.service_id)
        with pytest.raises(InteractionUnknownError):
            await dialogue.ask("Hi")
    else:
        service.service([Speak("Saved.", after=5.0)], service_id=service.service_id)
        service.cut(on="interact", processed=True)
        with pytest.raises(OutcomeUnknownError):
            await dialogue.ask("Hi")
    reply = await dialogue.settle()
    assert reply is not None
    assert (reply.text, reply.user_message, reply.conversation_id) == ("Saved.", "Hi", dialogue.id)
    assert reply.interaction_id == service.asked[-1].interaction_id
    assert len(service.asked) == 2


async def test_a_turn_that_left_no_trace_is_none_only_when_that_is_certain(
    amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """While a turn may still run, its absence proves nothing; once the conversation is finished, it does."""
    dialogue = amigo.conversation(service.service_id)
    assert await dialogue.settle() is None
    await dialogue.begin()
    service.cut(on="interact")
    with pytest.raises(OutcomeUnknownError):
        await dialogue.ask("Hi")
    assert dialogue.may_be_running
    with pytest.raises(InteractionUnknownError, match="finish the conversation first"):
        await dialogue.settle(timeout=20)
    await dialogue.finish()
    assert await dialogue.settle(timeout=20) is None
    assert not dialogue.may_be_running
    assert len(service.asked) == 1


async def test_a_turn_is_certainly_not_kept_once_the_service_accepts_a_later_one(
    amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """The service runs one call at a time, so a later one shows that the earlier is done."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    service.cut(on="interact")
    lost = dialogue.send("Hi")
    with pytest.raises(OutcomeUnknownError):
        await lost.reply()
    await dialogue.ask("Hi")
    assert await lost.settle(timeout=20) is None
    assert len(service.asked) == 2


async def test_a_turn_that_runs_for_long_is_not_taken_for_lost(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """A reply that is saved minutes later is found by the next `settle`; until then nothing is claimed."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    service.service([Cut(), Speak("At last.", after=200.0)], service_id=service.service_id)
    with pytest.raises(InteractionUnknownError):
        await dialogue.ask("Hi")
    with pytest.raises(InteractionUnknownError, match="may still be running"):
        await dialogue.settle()
    reply = await dialogue.settle(timeout=200)
    assert reply is not None
    assert reply.text == "At last."


async def test_a_text_that_the_service_changed_is_not_taken_for_lost() -> None:
    """A message since then that may be it, though its text is another one, leaves the outcome unknown."""
    rows = [
        {"id": "m1", "interaction_id": "i1", "message_type": "user-message", "message": "Hi &amp; bye"},
        {"id": "m2", "interaction_id": "i1", "message_type": "agent-message", "message": "Hello."},
    ]
    page = answer(200, json.dumps({"messages": rows, "has_more": False}))
    finished = answer(200, json.dumps({"conversations": [{"id": ID, "is_finished": True}], "has_more": False}))
    steps = (SIGNED_IN, Act.CLOSE, page, finished, page, page)
    async with RawServer(*steps) as server, session(server.url) as amigo:
        stream = amigo.interact(ID, "Hi & bye")
        with pytest.raises(OutcomeUnknownError):
            await stream.reply()
        with pytest.raises(InteractionUnknownError, match="m1"):
            await stream.settle()


async def test_the_same_words_said_before_are_not_taken_for_it(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """An earlier turn with the same words, a moment ago, does not pass for the one that was lost."""
    service.service("Fine.", service_id=service.service_id)
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    await dialogue.ask("yes")
    service.cut(on="interact")
    with pytest.raises(OutcomeUnknownError):
        await dialogue.ask("yes")
    await dialogue.finish()
    assert await dialogue.settle(timeout=10) is None


async def test_the_same_words_in_a_first_turn_are_not_taken_for_it(
    amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """A new conversation's stream names no user message, and its turn is distinguished from the next all the same."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.ask("yes")
    service.cut(on="interact")
    with pytest.raises(OutcomeUnknownError):
        await dialogue.ask("yes")
    await dialogue.finish()
    assert await dialogue.settle(timeout=10) is None


async def test_a_stream_tells_the_same_words_from_its_own(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Without a handle too; and of two turns with the same words the later is found."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    service.service(lambda _, number: f"No. {number}", service_id=service.service_id)
    for _ in range(2):
        await amigo.interact(str(dialogue.id), "yes").reply()
    service.cut(on="interact")
    cut = amigo.interact(str(dialogue.id), "yes")
    with pytest.raises(OutcomeUnknownError):
        await cut
    with pytest.raises(InteractionUnknownError):
        await cut.settle(timeout=10)
    service.cut(on="interact", processed=True)
    lost = amigo.interact(str(dialogue.id), "yes")
    with pytest.raises(OutcomeUnknownError):
        await lost
    # One of the two is saved, and nothing says which.
    with pytest.raises(InteractionUnknownError, match="1 interactions may be one of 2"):
        await lost.settle(timeout=10)
    await amigo.interact(str(dialogue.id), "no").reply()
    with pytest.raises(InteractionUnknownError):
        await cut.settle(timeout=10)


@pytest.mark.parametrize("kept", ["gone", "kept"])
async def test_a_first_turn_that_is_void_may_be_said_again(kept: Literal["gone", "kept"], clock: VirtualClock) -> None:
    """Whether or not the service keeps a conversation whose first turn failed, the dialogue goes on."""
    quirks = AmigoQuirks(failed_create=kept)
    async with (
        AmigoSimulator([Error(503)], clock=clock, quirks=quirks) as service,
        session(service.url, clock=clock) as amigo,
    ):
        dialogue = amigo.conversation(service.service_id)
        for _ in range(2):
            with pytest.raises(InteractionVoidError):
                await dialogue.ask("Hi")
        service.service("Fine.", service_id=service.service_id)
        assert [(await dialogue.ask(text)).text for text in ("Hi", "More")] == ["Fine.", "Fine."]
        assert dialogue.id == service.asked[-1].conversation_id == service.asked[-2].conversation_id


async def test_what_was_not_sent_is_not_looked_for(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """The same words, said long before, do not pass for a message that never left or was refused."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    await dialogue.ask("yes")
    never = amigo.interact(str(dialogue.id), "yes")
    assert await never.settle() is None
    service.refuse(403, on="interact")
    refused = amigo.interact(str(dialogue.id), "yes")
    with pytest.raises(PermissionDeniedError):
        await refused
    assert (refused.is_sent, refused.is_in_doubt) == (False, False)
    assert await refused.settle() is None


async def test_a_dialogue_that_was_left_at_its_last_event_is_over(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """A loop that ends with `interaction-complete` has heard all: the reply, and that the agent has ended it."""
    service.service(["Bye.", Complete(ends=True)], service_id=service.service_id)
    dialogue = amigo.conversation(service.service_id)
    async with dialogue.send("Hi") as stream:
        async for event in stream:
            if isinstance(event, InteractionComplete):
                break
    assert (stream.is_saved, dialogue.is_completed) == (True, True)
    assert (await stream.reply()).text == "Bye."
    requests = amigo.stats.requests
    settled = await stream.settle()
    assert settled is not None
    await dialogue.finish()
    assert amigo.stats.requests == requests


async def test_a_refused_turn_leaves_the_one_before_in_doubt(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """What settles is the last turn that left: a prompt that is refused after it does not hide it."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    service.cut(on="interact", processed=True)
    with pytest.raises(OutcomeUnknownError):
        await dialogue.ask("one")
    service.refuse(403, on="interact")
    with pytest.raises(PermissionDeniedError):
        await dialogue.ask("two")
    settled = await dialogue.settle()
    assert settled is not None
    assert settled.text == 'You said: "one"'


async def test_finishing_after_a_refused_turn_is_harmless(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """A conversation that was finished elsewhere refuses a prompt, and finishing it once more at once succeeds."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    async with session(service.url, clock=clock) as other:
        await other.finish(str(dialogue.id))
    with pytest.raises(ConflictError):
        await dialogue.ask("one")
    await dialogue.finish()
    assert dialogue.is_completed
    assert clock.monotonic() < 5


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
async def test_a_new_conversation_is_found_by_its_words(skew: float, clock: VirtualClock) -> None:
    """A conversation whose id never came is found among the service's, however its clock differs."""
    async with (
        AmigoSimulator("Saved.", clock=clock, quirks=AmigoQuirks(clock_skew=skew)) as service,
        session(service.url, clock=clock) as amigo,
    ):
        stream = amigo.create_conversation(service.service_id, "Hi")
        service.cut(on="create", processed=True)
        with pytest.raises(OutcomeUnknownError):
            await stream.reply()
        reply = await stream.settle()
        assert reply is not None
        assert (reply.text, reply.conversation_id) == ("Saved.", service.asked[0].conversation_id)
        greeting = amigo.create_conversation(service.service_id)
        await amigo.finish(reply.conversation_id or "")
        clock.advance(60.0)
        service.cut(on="create", processed=True)
        with pytest.raises(OutcomeUnknownError):
            await greeting.reply()
        settled = await greeting.settle()
        assert settled is not None
        assert settled.conversation_id == service.asked[1].conversation_id


async def test_a_dialogue_whose_id_never_came_goes_on_where_it_was_settled(
    amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """A settled first turn gives the dialogue its id, and the next prompt goes there."""
    dialogue = amigo.conversation(service.service_id)
    service.cut(on="create", processed=True)
    with pytest.raises(OutcomeUnknownError):
        await dialogue.ask("Hi")
    assert dialogue.id is None
    assert (await dialogue.settle()) is not None
    assert dialogue.id == service.asked[0].conversation_id
    assert (await dialogue.ask("More")).text == 'You said: "More"'


async def test_two_that_may_be_it_are_undecided() -> None:
    """Where two interactions fit, neither is taken."""
    rows = [
        {"id": f"m{n}", "interaction_id": f"i{n}", "message_type": kind, "message": "Hi"}
        for n in (1, 2)
        for kind in ("user-message", "agent-message")
    ]
    page = answer(200, json.dumps({"messages": rows, "has_more": False}))
    async with RawServer(SIGNED_IN, Act.CLOSE, page) as server, session(server.url) as amigo:
        stream = amigo.interact(ID, "Hi")
        with pytest.raises(OutcomeUnknownError):
            await stream.reply()
        with pytest.raises(InteractionUnknownError, match="2 interactions"):
            await stream.settle()


async def test_what_is_known_needs_no_look() -> None:
    """A stream that ended well is settled without a request."""
    async with RawServer(SIGNED_IN, chunked(lines(TAKEN, COMPLETE))) as server, session(server.url) as amigo:
        stream = amigo.interact(ID, "Hi")
        await stream.reply()
        settled = await stream.settle()
        assert settled is not None
        assert settled.text == "Let me check."
        assert len(server.seen) == 2


async def test_a_turn_after_one_in_doubt_waits_for_the_service(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """While the service still works on a turn that broke off, the next one waits instead of failing."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    service.service([Cut(), Speak("First.", after=3.0)], service_id=service.service_id)
    with pytest.raises(InteractionUnknownError):
        await dialogue.ask("one")
    service.service("Second.", service_id=service.service_id)
    replies: list[AmigoReply] = []
    for _ in range(5):
        try:
            replies.append(await dialogue.ask("two"))
            break
        except ConflictError:
            continue
    assert [reply.text for reply in replies] == ["Second."]


async def test_a_timeout_leaves_a_dialogue_usable(clock: VirtualClock) -> None:
    """A prompt whose time is over frees the dialogue; the error names the conversation."""
    async with AmigoSimulator("Hello", clock=clock) as service, session(service.url, clock=clock) as amigo:
        dialogue = amigo.conversation(service.service_id)
        await dialogue.begin()
        service.service([Speak("Le"), Hang()], service_id=service.service_id)
        with pytest.raises(WatchTimeoutError) as caught:
            await dialogue.ask("Hi", timeout=50)
        assert caught.value.conversation_id == dialogue.id
        service.service("Fine.", service_id=service.service_id)
        assert (await dialogue.ask("Hi")).text == "Fine."


# Many.


async def test_many_prompts_one_after_another(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Each prompt has a conversation of its own, finished before the next; one that fails costs no other."""
    script = {"1": [Speak("Le"), Error(500, "oops")]}
    service.service(lambda message, _: script.get(message, f"re {message}"), service_id=service.service_id)

    async def prompts() -> AsyncIterator[str]:
        for n in range(4):
            yield str(n)

    outcomes = [outcome async for outcome in amigo.ask_many(service.service_id, prompts())]
    assert [(outcome.index, outcome.prompt) for outcome in outcomes] == [(n, str(n)) for n in range(4)]
    assert [outcome.reply.text if outcome.reply else None for outcome in outcomes] == ["re 0", None, "re 2", "re 3"]
    assert isinstance(outcomes[1].error, InteractionVoidError)
    assert all(outcome.conversation_id for outcome in outcomes)
    assert [row async for row in amigo.conversations(is_finished=False)] == []


@pytest.mark.parametrize("processed", [True, False])
async def test_a_beginning_that_broke_off_costs_no_other_prompt(
    *, processed: bool, amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """A conversation that was begun and never named is found and finished, so the next prompt can begin another."""
    service.cut(on="create", processed=processed)
    outcomes = [outcome async for outcome in amigo.ask_many(service.service_id, ["0", "1", "2"])]
    assert isinstance(outcomes[0].error, OutcomeUnknownError)
    assert [outcome.reply.text for outcome in outcomes if outcome.reply] == ['You said: "1"', 'You said: "2"']
    assert [row async for row in amigo.conversations(is_finished=False)] == []


async def test_a_conversation_of_somebody_else_is_not_finished(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Of a beginning that left no trace nothing is finished: another's conversation goes on."""
    dialogue = amigo.conversation(service.service_id)
    service.cut(on="create")
    with pytest.raises(OutcomeUnknownError):
        await dialogue.ask("Hi")
    other = await amigo.create_conversation(service.service_id, "Hello").reply()
    await dialogue.finish()
    assert (await amigo.interact(str(other.conversation_id), "More").reply()).text == 'You said: "More"'


async def test_asking_at_once_queues(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Any number of tasks may ask: the service is asked one thing at a time."""
    replies = await asyncio.gather(*(amigo.ask(service.service_id, str(n)) for n in range(5)))
    assert [reply.text for reply in replies] == [f'You said: "{n}"' for n in range(5)]


async def test_a_cancelled_question_is_finished_before_the_next(service: AmigoSimulator) -> None:
    """What a cancelled `ask` left open does not stand in the way of the next one."""
    service.service([Speak("a"), Hang()], service_id=service.service_id)
    # In real time, in which the silence lasts long enough to be cancelled.
    async with session(service.url, clock=SystemClock()) as amigo:
        task = asyncio.ensure_future(amigo.ask(service.service_id, "one"))
        await support.until(lambda: service.asked)
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        service.service("Fine.", service_id=service.service_id)
        assert (await amigo.ask(service.service_id, "two")).text == "Fine."


async def test_a_conversation_that_cannot_be_finished_keeps_its_reply(
    amigo: AmigoSession, service: AmigoSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    """The reply counts; the next question finishes the conversation first."""
    service.refuse(500, on="finish")
    assert (await amigo.ask(service.service_id, "one")).text
    assert "could not be finished" in caplog.text
    assert (await amigo.ask(service.service_id, "two")).text
    assert [row async for row in amigo.conversations(is_finished=False)] == []


async def test_a_known_error_is_not_kept_back_by_the_limits(service: AmigoSimulator, clock: VirtualClock) -> None:
    """A stream that is cut off while its turn runs on: the error comes within seconds, the next question finishes."""
    service.service([Speak("Let me"), Cut(), Speak(" see.", after=20)], service_id=service.service_id)
    async with session(service.url, clock=clock, limits=Limits()) as amigo:
        with pytest.raises(InteractionUnknownError):
            await amigo.ask(service.service_id, "one", timeout=5)
        assert clock.monotonic() <= 5
        assert 2 <= sum(seen.path.endswith("/finish/") for seen in service.requests) <= 3
        service.service("Fine.", service_id=service.service_id)
        assert (await amigo.ask(service.service_id, "two")).text == "Fine."
        assert [row async for row in amigo.conversations(is_finished=False)] == []


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("steps", [[Speak("Fine.")], [Speak("Let me"), Cut()]])
async def test_finishing_that_hangs_keeps_nothing_back(
    lost: str, steps: list[Speak | Cut], amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """A reply or an error that is known comes within 5 s; whether or not it was finished, the next question goes on."""
    service.service(steps, service_id=service.service_id)

    async def hold(request: web.Request, _response: web.StreamResponse) -> None:
        if request.path.endswith("/finish/"):
            service.intercept_response = None
            with clock.stalled():
                await clock.sleep(math.inf)

    if lost == "answer":
        service.intercept_response = hold
    else:
        service.hang(on="finish")
    with suppress(InteractionUnknownError):
        assert (await amigo.ask(service.service_id, "one")).text == "Fine."
    assert clock.monotonic() == pytest.approx(5)
    service.service("Fine.", service_id=service.service_id)
    assert (await amigo.ask(service.service_id, "two")).text == "Fine."
    assert clock.monotonic() < 10
    assert [row async for row in amigo.conversations(is_finished=False)] == []


async def test_leaving_the_outcomes_stops_asking(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """After `break` nothing more is asked, and no task is left."""
    async with amigo.ask_many(service.service_id, (str(n) for n in range(100))) as outcomes:
        async for outcome in outcomes:
            assert outcome.reply
            break
    assert not [task for task in asyncio.all_tasks() if "many" in repr(task.get_coro()) or "_put" in repr(task)]
    assert len(service.asked) <= 3


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        ((answer(404, "{}"),), NotFoundError),
        ((answer(500, "{}"),), ServerError),
        ((Last(chunked(lines(TAKEN))),), InteractionUnknownError),
    ],
)
async def test_errors_name_the_conversation(steps: Any, kind: type[NairiError]) -> None:
    """An error of a resumed conversation names it, for each way of failing."""
    async with RawServer(SIGNED_IN, *steps) as server, session(server.url) as amigo:
        with pytest.raises(kind) as caught:
            await amigo.resume(ID).ask("Hi")
    assert caught.value.conversation_id == ID
