"""`nairi-async worker`, and `nairi-async batch` on a database, in processes of their own."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING

import pytest
from clusters import AGENT
from running import run, started

from nairi_async.testing import Say

if TYPE_CHECKING:
    from pathlib import Path

    from clusters import Field

pytestmark = pytest.mark.anyio


async def test_a_batch_over_two_workers_one_of_which_is_killed(field: Field, tmp_path: Path) -> None:
    """The commands of the guide: a worker is killed, the other goes on; the status says all; SIGTERM hands on."""
    field.simulator.agent(AGENT, lambda prompt, _: [Say(f"Answer to {prompt}", after=1)])
    prompts = tmp_path / "prompts.jsonl"
    records = [{"id": str(number), "prompt": f"Prompt {number}", "customer": "c"} for number in range(20)]
    prompts.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    output = tmp_path / "replies.jsonl"
    where = ("--database", field.database)
    batch = ("batch", str(prompts), "--agent", AGENT, *where, "--name", "run-1", "--output", str(output))
    service = field.simulator
    async with started("worker", *where, "--limit", "20", simulator=service) as killed:
        following = asyncio.create_task(run(*batch, NAIRI_BASE_URL=service.url))
        await field.until_stored(20)
        killed.kill()
        await killed.wait()
        async with started("worker", *where, "--requests-per-second", "200", simulator=service) as worker:
            ended = await following
            status = await run("batch", "--status", *where, "--json", NAIRI_BASE_URL=service.url)
            worker.send_signal(signal.SIGTERM)
            _, err = await worker.communicate()
            assert await worker.wait() == 0
    assert (ended.status, ended.out) == (0, ""), ended.err
    assert "20 done, 0 failed" in ended.err
    assert output.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert {line["id"]: (line["text"], line["customer"]) for line in lines} == {
        one["id"]: (f"Answer to {one['prompt']}", "c") for one in records
    }
    shown = json.loads(status.out)
    assert (shown["name"], shown["done"], shown["in_doubt"], shown["workers"][0]["requests_per_second"]) == (
        "run-1", 20, 0, 200.0,
    )  # fmt: skip
    assert "Stopped. 0 conversations were handed on" in err.decode()
    assert set(field.asked.values()) == {1}
    plain = await run("batch", "--status", *where, NAIRI_BASE_URL=service.url)
    assert "done      20" in plain.out
    assert "workers   0" in plain.out
    again = await run(*batch, NAIRI_BASE_URL=service.url)
    assert (again.status, again.out) == (0, "")
    assert len(output.read_text(encoding="utf-8").splitlines()) == 20


async def test_what_the_commands_refuse(field: Field, tmp_path: Path) -> None:
    """A missing option, a URL of something else, a ledger beside a database: one line, status 2, no password."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('"a"\n', encoding="utf-8")
    words = ("batch", str(prompts), "--agent", AGENT)
    cases = (
        (("worker",), "--database must be given"),
        (("worker", "--database", "mysql://a:s3cret@b/c"), "postgresql://"),
        ((*words, "--database", field.database), "--name must be given"),
        ((*words, "--database", field.database, "--name", "x", "--ledger", "y"), "--ledger does not go with"),
        ((*words, "--name", "x", "--ledger", "y"), "--name goes with --database"),
    )
    for command, text in cases:
        ended = await run(*command, simulator=field.simulator)
        assert ended.status == 2
        assert text in ended.error
        assert "s3cret" not in ended.err
