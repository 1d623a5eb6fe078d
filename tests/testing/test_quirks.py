from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from simulated import running

from nairi_async.testing import Notice, Quirks, Say, Text

pytestmark = pytest.mark.anyio

SCRIPT = (Text("working", after=1), Say("reply", after=1), Say("more", after=1))


@pytest.mark.parametrize("code", [200, 201])
async def test_start_code(code: Any) -> None:
    """A start succeeds with either code."""
    async with running(quirks=Quirks(start_code=code)) as service:
        await service.start(expect=code)


@pytest.mark.parametrize(
    ("moves", "seconds"),
    [("never", [0, 0, 0, 0]), ("completion", [0, 0, 0, 3]), ("reply", [0, 0, 2, 3]), ("progress", [0, 1, 2, 3])],
)
async def test_what_moves_updated_at(moves: Any, seconds: list[int]) -> None:
    """A job's `updated_at` moves with the end of a turn, with each reply, with each progress message, or never."""
    async with running(quirks=Quirks(updated_at_moves=moves), agents={"my-agent": SCRIPT}) as service:
        await service.start()
        seen = []
        for _ in seconds:
            seen.append((await service.listed())[0]["updated_at"])
            service.clock.advance(1)
        assert [int(at[17:19]) - int(seen[0][17:19]) for at in seen] == seconds


async def test_ending_a_job_moves_updated_at() -> None:
    """A change of the job's status is seen in `updated_at` even where only completions are."""
    async with running(quirks=Quirks(updated_at_moves="completion"), agents={"my-agent": "x"}) as service:
        job_id, _ = await service.start()
        before = (await service.listed())[0]
        service.clock.advance(9)
        service.simulator.job_status(job_id, "completed")
        after = (await service.listed())[0]
        assert (before["status"], after["status"]) == ("active", "completed")
        assert after["updated_at"] > before["updated_at"]


async def test_timestamps() -> None:
    """Messages have their own times, the time of their job, or none."""
    async with running(agents={"my-agent": SCRIPT}) as service:
        job_id, _ = await service.start()
        service.clock.advance(3)
        kept = await service.messages(job_id)
        service.simulator.quirks = Quirks(timestamps="equal")
        equal = await service.messages(job_id)
        service.simulator.quirks = Quirks(timestamps="omitted")
        omitted = await service.messages(job_id)
    assert len({message["created_at"] for message in kept}) == 4
    assert len({message[key] for message in equal for key in ("created_at", "updated_at")}) == 1
    assert not any("created_at" in message or "updated_at" in message for message in omitted)


async def test_clock_skew() -> None:
    """A skewed server is wrong in its timestamps, its `Date` and what `updated_after` means, all alike."""
    async with running(quirks=Quirks(clock_skew=3600), agents={"my-agent": "x"}) as service:
        job_id, _ = await service.start()
        (message, _) = await service.messages(job_id)
        async with service.http.get(service.simulator.url) as response:
            date = parsedate_to_datetime(response.headers["Date"]).timestamp()
        assert date == service.clock.time() + 3600
        updated = (await service.listed())[0]["updated_at"]
        assert updated == message["created_at"]
        assert await service.listed(f"?updated_after={updated}") == []


async def test_order() -> None:
    """The list runs from the oldest, from the newest, or in a disorder that a seed decides."""
    script = [str(number) for number in range(9)]
    async with running(agents={"my-agent": script}) as service:
        job_id, _ = await service.start("p")
        oldest = await service.texts(job_id)
        assert oldest == ["p", *script]
        service.simulator.quirks = Quirks(order="newest first")
        assert await service.texts(job_id) == oldest[::-1]
        service.simulator.quirks = Quirks(order="shuffled", order_seed=1)
        shuffled = await service.texts(job_id)
        assert shuffled not in (oldest, oldest[::-1])
        assert sorted(shuffled) == sorted(oldest)
        assert await service.texts(job_id) == shuffled


async def test_list_lags_behind_the_status() -> None:
    """With a lagging list a turn is over before its reply, and even its prompt, are listed."""
    async with running(quirks=Quirks(list_lag=5), agents={"my-agent": "reply"}) as service:
        job_id, message_id = await service.start("p")
        assert await service.status(message_id) == "completed"
        assert await service.texts(job_id) == []
        service.clock.advance(5)
        assert await service.texts(job_id) == ["p", "reply"]


async def test_status_lags_behind_the_list() -> None:
    """With a lagging status the reply is there while the turn still looks pending."""
    async with running(quirks=Quirks(status_lag=5), agents={"my-agent": [Say("reply", after=1)]}) as service:
        job_id, message_id = await service.start("p")
        service.clock.advance(5.5)
        assert await service.texts(job_id) == ["p", "reply"]
        assert await service.status(message_id) == "pending"
        service.clock.advance(0.5)
        assert await service.status(message_id) == "completed"


async def test_stale_reads_go_back_in_time() -> None:
    """Every other read shows the past, but never loses a message whose id was handed out."""
    async with running(quirks=Quirks(stale_by=10, stale_every=2), agents={"my-agent": [Say("r", after=1)]}) as service:
        job_id, message_id = await service.start()
        service.clock.advance(2)
        assert [await service.status(message_id) for _ in range(4)] == ["completed", "pending"] * 2
        assert [len(await service.messages(job_id)) for _ in range(2)] == [2, 0]
        assert [len(await service.listed()) for _ in range(2)] == [1, 0]


async def test_repeated_messages() -> None:
    """Some messages come twice in one list, with one id."""
    async with running(quirks=Quirks(repeat_every=2), agents={"my-agent": ["a", "b", "c"]}) as service:
        job_id, _ = await service.start("p")
        assert await service.texts(job_id) == ["p", "a", "b", "c", "a", "c"]


async def test_unknown_fields() -> None:
    """Unknown fields are in every object: answers, messages, jobs, agents."""
    async with running(quirks=Quirks(unknown_fields=True)) as service:
        started = await service.call("POST", "/conversations/start", 201, json={"agent_id": "my-agent", "prompt": "p"})
        listed = await service.call("GET", f"/conversations/{started['job_id']}/messages")
        jobs = await service.call("GET", "/agents/my-agent/conversations")
        agents = await service.call("GET", "/agents")
        objects = [started, listed, listed["messages"][0], jobs, jobs["conversations"][0], agents[0]]
        assert all("x_unknown" in shown for shown in objects)


@pytest.mark.parametrize("status", ["completed", "error", "abandoned"])
async def test_continuing_finished_jobs(status: Any) -> None:
    """A finished job is either taken up again or refused."""
    async with running(agents={"my-agent": "x"}) as service:
        job_id, _ = await service.start()
        service.simulator.job_status(job_id, status)
        service.simulator.quirks = Quirks(finished_jobs="refuse")
        path = f"/conversations/{job_id}/continue"
        assert await service.refused("POST", path, 400, json={"prompt": "p"}) == f"job is {status}"
        service.simulator.quirks = Quirks(finished_jobs="accept")
        await service.call("POST", path, 201, json={"prompt": "p"})
        assert (await service.listed())[0]["status"] == "active"


async def test_overlapping_turns() -> None:
    """A prompt during a turn waits for its end or is refused, and a refused one does not run."""
    async with running(agents={"my-agent": [Say("x", after=5)]}) as service:
        job_id, _ = await service.start()
        path = f"/conversations/{job_id}/continue"
        queued = await service.call("POST", path, 201, json={"prompt": "p"})
        assert await service.status(queued["message_id"]) == "queued"
        service.simulator.quirks = Quirks(overlapping="refuse")
        await service.refused("POST", path, 400, json={"prompt": "q"})
        assert [asked.prompt for asked in service.simulator.prompts] == ["Hello", "p"]
        service.clock.advance(10)
        await service.call("POST", path, 201, json={"prompt": "q"})


async def test_only_user_messages_by_id() -> None:
    """Replies can be read by id, or only user messages can."""
    async with running(agents={"my-agent": "reply"}) as service:
        job_id, message_id = await service.start()
        reply = (await service.messages(job_id))[1]
        assert await service.call("GET", f"/messages/{reply['id']}") == reply
        service.simulator.quirks = Quirks(only_user_messages_by_id=True)
        await service.refused("GET", f"/messages/{reply['id']}", 404)
        assert await service.status(message_id) == "completed"


async def test_no_listing() -> None:
    """The listing can be missing altogether."""
    async with running(quirks=Quirks(listing=False)) as service:
        await service.refused("GET", "/agents/my-agent/conversations", 404)


async def test_unknown_first_status() -> None:
    """A new user message may show an unknown word for a while, but never instead of its end."""
    quirks = Quirks(first_status="scheduled", first_status_for=2)
    async with running(quirks=quirks, agents={"my-agent": [Say("x", after=3)], "quick": "x"}) as service:
        _, message_id = await service.start()
        seen = []
        for _ in range(4):
            seen.append(await service.status(message_id))
            service.clock.advance(1)
        assert seen == ["scheduled", "scheduled", "pending", "completed"]
        assert await service.status((await service.start(agent="quick"))[1]) == "completed"


async def test_progress_messages_have_a_status_and_a_lifetime() -> None:
    """Progress messages show the status that is wished for, and can vanish."""
    quirks = Quirks(progress_status="pending", progress_kept_for=10)
    async with running(quirks=quirks, agents={"my-agent": [Text("t"), Notice("n")]}) as service:
        job_id, _ = await service.start()
        shown = [(message["role"], message["status"]) for message in await service.messages(job_id)]
        assert shown == [("user", "completed"), ("progress", "pending"), ("system", "completed")]
        service.clock.advance(11)
        assert [message["role"] for message in await service.messages(job_id)] == ["user", "system"]


@pytest.mark.parametrize(
    ("quirk", "value"),
    [
        ("start_code", 202),
        ("updated_at_moves", "often"),
        ("timestamps", "none"),
        ("clock_skew", float("inf")),
        ("order", "random"),
        ("list_lag", -1),
        ("status_lag", float("nan")),
        ("stale_every", 0),
        ("repeat_every", -1),
        ("finished_jobs", "maybe"),
        ("overlapping", "merge"),
        ("progress_kept_for", -1),
    ],
)
async def test_impossible_quirks_are_refused(quirk: str, value: Any) -> None:
    """An impossible value of a quirk is a ValueError that names the quirk."""
    with pytest.raises(ValueError, match=quirk):
        Quirks(**{quirk: value})
