from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from simulated import START, running

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("form", ["team/bot", "team%2Fbot", "team%2fbot"])
async def test_slug_with_a_slash(form: str) -> None:
    """A slug with a slash is found raw and percent-encoded; so is the agent's id."""
    async with running(agents={"team/bot": "x"}) as service:
        await service.start(agent="team/bot")
        agent = await service.call("GET", f"/agents/{form}")
        assert agent["agent_id"] == "team/bot"
        assert len(await service.listed("", form)) == len(await service.listed("", agent["id"])) == 1
        await service.call("POST", f"/agents/{form}/deploy", 202)


async def test_attachments_come_back() -> None:
    """An uploaded file comes back with its name and its bytes, as does one that a script hands out."""
    async with running() as service:
        uploaded = await service.upload(bytes(range(256)), "a b.bin")
        given = service.simulator.attachment("chart.png", b"png")
        files = [await service.call("GET", f"/attachments/{one}") for one in (uploaded, given)]
        assert [(file["filename"], base64.b64decode(file["data"])) for file in files] == [
            ("a%20b.bin", bytes(range(256))),
            ("chart.png", b"png"),
        ]


FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", b"x"),
        ("multipart/form-data", FILE),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nno header\r\n\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A: b\r\n" * 20_000),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A" * 20_000),
        ("multipart/form-data; boundary=x", FILE.replace(b'"file"', b'"other"') + b"data\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", FILE + bytes(50 * 1024 * 1024 + 1) + b"\r\n--x--\r\n"),
    ],
    ids=["no form", "no boundary", "empty", "no header", "many headers", "long header", "other part", "too large"],
)
async def test_invalid_upload(content_type: str, body: bytes) -> None:
    """An upload without a readable file of at most 50 MB is a 400."""
    async with running() as service:
        headers = {"Content-Type": content_type}
        await service.refused("POST", "/attachments", 400, data=io.BytesIO(body), headers=headers)


async def test_agents_are_made_changed_and_deleted() -> None:
    """An agent gets its slug from its name; a change moves its time, an empty one does not."""
    async with running() as service:
        body = {"name": "My New Agent", "instances_count": 2, "description": ""}
        made = await service.call("POST", "/agents", 201, json=body)
        assert (made["agent_id"], made["instances_count"], made["description"]) == ("my-new-agent", 2, "")
        twin = await service.call("POST", "/agents", 201, json={"name": "My new agent!"})
        assert twin["agent_id"] == "my-new-agent-2"
        listed = await service.call("GET", "/agents")
        assert [agent["agent_id"] for agent in listed] == ["my-agent", "my-new-agent", "my-new-agent-2"]
        service.clock.advance(60)
        path = f"/agents/{made['id']}"
        assert await service.call("PATCH", path, json={}) == made
        changed = await service.call("PATCH", path, json={"description": "d", "system_prompt": None})
        assert changed == {**made, "description": "d", "updated_at": "2026-03-31T23:34:20.000Z"}
        async with service.http.delete(f"{service.simulator.url}/api/public/v1{path}") as response:
            assert response.status == 204
        await service.refused("GET", path, 404)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/agents", {}),
        ("POST", "/agents", {"name": "n", "instances_count": 0}),
        ("POST", "/agents", {"name": "n", "instances_count": True}),
        ("POST", "/agents", {"name": "n", "system_prompt": 1}),
        ("PATCH", "/agents/my-agent", {"description": None}),
        ("POST", "/agents/my-agent/deploy", {"update_config_only": 1}),
    ],
)
async def test_invalid_changes_of_agents(method: str, path: str, body: dict[str, Any]) -> None:
    """A body with a wrong value is a 400, and nothing has changed."""
    async with running() as service:
        before = await service.call("GET", "/agents")
        await service.refused(method, path, 400, json=body)
        assert await service.call("GET", "/agents") == before


async def test_strict_agents() -> None:
    """Unknown agents are made on the way, or refused under strict rules."""
    async with running(strict_agents=True) as service:
        await service.refused("POST", START, 404, json={"agent_id": "nobody", "prompt": "p"})
    async with running() as service:
        await service.start(agent="nobody")
