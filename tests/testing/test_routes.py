from __future__ import annotations

import re

import pytest
from simulated import START, UNKNOWN, running

from nairi_async.testing import Fail, RecordedPrompt, Say

pytestmark = pytest.mark.anyio


async def test_example_of_the_documentation() -> None:
    """Start, poll the user message, read the list, continue: as the quickstart shows it."""
    async with running() as service:
        body = {"agent_id": "my-agent", "prompt": "Your task description", "ask_mode": False}
        started = await service.call("POST", START, 201, json=body)
        assert re.fullmatch(r"job_[0-9A-Z]{26}", started["job_id"])
        message = await service.call("GET", f"/messages/{started['message_id']}")
        assert message == {
            "id": started["message_id"],
            "job_id": started["job_id"],
            "content": "Your task description",
            "role": "user",
            "status": "pending",
            "created_at": "2026-03-31T23:33:20.000Z",
            "updated_at": "2026-03-31T23:33:20.000Z",
        }
        service.clock.advance(1)
        assert await service.status(started["message_id"]) == "completed"
        messages = await service.messages(started["job_id"])
        assert [messages[0]["role"], messages[-1]["role"]] == ["user", "assistant"]
        path = f"/conversations/{started['job_id']}/continue"
        again = await service.call("POST", path, 201, json={"prompt": "Additional instructions"})
        assert again["job_id"] == started["job_id"]
        assert again["message_id"] != started["message_id"]


async def test_prompts_are_recorded_once_each() -> None:
    """`prompts` holds what ran, with all that was asked."""
    async with running(agents={"bot": "x"}) as service:
        attachment_id = await service.upload(b"data")
        body = {"agent_id": "bot", "prompt": "p", "ask_mode": True, "attachment_ids": [attachment_id]}
        made = await service.call("POST", START, 201, json=body)
        at = service.clock.time()
        expected = RecordedPrompt("bot", made["job_id"], made["message_id"], "p", (attachment_id,), at, ask_mode=True)
        assert service.simulator.prompts == [expected]
        assert (await service.messages(made["job_id"]))[0]["attachment_ids"] == [attachment_id]


@pytest.mark.parametrize("key", ["", "Bearer wrong", "Basic nr_simulator", "Bearer"])
async def test_wrong_key(key: str) -> None:
    """A missing or wrong key is a 401 on every path."""
    async with running() as service:
        for path in ("/agents", "/nowhere"):
            await service.refused("GET", path, 401, headers={"Authorization": key})


async def test_revoked_key() -> None:
    """Changing the key shuts out the old one at once."""
    async with running() as service:
        service.simulator.api_key = "nr_new"
        await service.refused("GET", "/agents", 401)


async def test_exact_texts_of_continue() -> None:
    """The three documented errors of continue have their exact texts."""
    async with running() as service:
        job_id, _ = await service.start()
        foreign = service.simulator.foreign_job("my-agent")
        body = {"prompt": "p"}
        refusals = [
            await service.refused("POST", f"/conversations/job_{UNKNOWN}/continue", 404, json=body),
            await service.refused("POST", f"/conversations/{foreign}/continue", 400, json=body),
            await service.refused("POST", f"/conversations/{job_id}/continue", 400, json={}),
            await service.refused("POST", f"/conversations/{job_id}/continue", 400, json={"prompt": ""}),
        ]
        assert refusals == ["job not found", "job is not an API job", "prompt is required", "prompt is required"]
        assert len(service.simulator.prompts) == 1
        assert len(await service.listed()) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b'{"agent_id": "my-agent"}',
        b'{"agent_id": "", "prompt": "p"}',
        b'{"agent_id": 1, "prompt": "p"}',
        b'{"agent_id": "my-agent", "prompt": ["p"]}',
        b'{"agent_id": "my-agent", "prompt": "p", "ask_mode": "yes"}',
        b'{"agent_id": "my-agent", "prompt": "p", "attachment_ids": "att_1"}',
        b'{"agent_id": "my-agent", "prompt": "p", "attachment_ids": ["att_1"]}',
        b'{"agent_id": "my-agent", "prompt": "p", "attachment_ids": [' + b'"a",' * 10 + b'"a"]}',
    ],
)
async def test_invalid_start(body: bytes) -> None:
    """A start that is not as documented is a 400, and no prompt runs."""
    async with running() as service:
        await service.refused("POST", START, 400, data=body)
        assert service.simulator.prompts == []


async def test_body_that_cannot_be_unpacked() -> None:
    """A body that is not in the encoding it claims is a 400, and the server goes on."""
    async with running() as service:
        await service.refused("POST", START, 400, data=b"junk", headers={"Content-Encoding": "gzip"})
        await service.start()


async def test_half_a_character() -> None:
    """A prompt with a lone surrogate runs, and comes back with a replacement."""
    async with running(agents={"my-agent": "x"}) as service:
        made = await service.call("POST", START, 201, data=b'{"agent_id": "my-agent", "prompt": "\\ud800 \xc3\xa9"}')
        assert (await service.texts(made["job_id"]))[0] == "? é"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nowhere", 404),
        (f"/messages/cmsg_{UNKNOWN}", 404),
        (f"/conversations/job_{UNKNOWN}/messages", 404),
        (f"/conversations/j_{UNKNOWN}/messages", 404),
        (f"/attachments/att_{UNKNOWN}", 404),
        ("/agents/nobody", 404),
        ("/agents/nobody/conversations", 404),
        ("/messages/17", 400),
        ("/messages/%2F%00", 400),
        ("/conversations/17/messages", 400),
        ("/attachments/17", 400),
        (START, 405),
    ],
)
async def test_what_is_not_there(path: str, status: int) -> None:
    """Unknown things are 404, malformed ids 400, wrong methods 405, all with the error shape of the service."""
    async with running() as service:
        await service.refused("GET", path, status)


async def test_wrong_method_names_the_right_ones() -> None:
    """A 405 keeps its `Allow` header."""
    async with running() as service, service.http.put(f"{service.simulator.url}/api/public/v1/agents") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET,POST")


async def test_message_that_is_not_there_yet() -> None:
    """The id of a reply is unknown to the service until its time has come."""
    async with running(agents={"my-agent": [Say("x", after=5)]}) as service:
        job_id, _ = await service.start()
        service.clock.advance(5)
        reply_id = (await service.messages(job_id))[1]["id"]
        service.clock.advance(-1)
        await service.refused("GET", f"/messages/{reply_id}", 404)


@pytest.mark.parametrize(
    "query",
    [
        "status=",
        "status=active,",
        "status=Active",
        "updated_after=yesterday",
        "updated_after=2026-04-12T18:45:12",
        "updated_after=2026-13-12T18:45:12Z",
        "sort=created_at",
        "limit=0",
        "limit=-1",
        "limit=101",
        "limit=x",
        "offset=-1",
        "offset=",
    ],
)
async def test_invalid_listing(query: str) -> None:
    """A query of the listing that breaks a documented rule is a 400."""
    async with running() as service:
        await service.refused("GET", f"/agents/my-agent/conversations?{query}", 400)


async def test_listing() -> None:
    """The listing filters by status and, strictly, by `updated_after`; it sorts and pages."""
    async with running(agents={"my-agent": "x", "bad": [Fail("no")]}) as service:
        jobs = []
        for _ in range(3):
            jobs.append((await service.start())[0])
            service.clock.advance(60)
        await service.start(agent="bad")
        service.simulator.job_status(jobs[0], "completed")

        async def ids(query: str) -> list[str]:
            return [row["id"] for row in await service.listed(query)]

        assert await ids("") == jobs[::-1]
        assert await ids("?sort=updated_at_desc") == [jobs[0], jobs[2], jobs[1]]
        assert await ids("?sort=created_at_asc&limit=1&offset=1") == [jobs[1]]
        assert await ids("?status=completed,error") == [jobs[0]]
        assert [row["status"] for row in await service.listed("", "bad")] == ["error"]
        second = (await service.listed("?sort=created_at_asc"))[1]["updated_at"]
        assert await ids(f"?updated_after={second}&sort=updated_at_asc") == [jobs[2], jobs[0]]
