"""What the tests of batches have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nairi_async.batch import Batch, BatchOutcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aiohttp import web

    from nairi_async import NairiSession

AGENT = "my-agent"


class Runs:
    """Runs of one batch, one after another, on one ledger."""

    def __init__(self, nairi: NairiSession, directory: Path) -> None:
        self.nairi = nairi
        self.ledger = directory / "run.sqlite"
        self.output = directory / "replies.jsonl"

    def batch(self, prompts: Any, **options: Any) -> Batch:
        """Make a batch, not yet begun."""
        return Batch(self.nairi, options.pop("agent_id", AGENT), prompts, ledger=self.ledger, **options)

    async def all(self, prompts: Any, **options: Any) -> dict[str, BatchOutcome]:
        """Run a batch to its end; return the outcomes by id."""
        async with self.batch(prompts, **options) as outcomes:
            return {outcome.id: outcome async for outcome in outcomes}


def is_start(request: web.Request) -> bool:
    """Whether a prompt begins a conversation here."""
    return request.path.endswith("/conversations/start")


def lost(count: int) -> Callable[..., Any]:
    """Return a hook of the simulator that cuts the connection of the next prompts: before or after they run."""
    left = count

    async def cut(request: web.Request, *_: object) -> None:
        nonlocal left
        if is_start(request) and left:
            left -= 1
            # Something of the body has arrived: the prompt has left.
            await request.read()
            raise ConnectionResetError

    return cut
