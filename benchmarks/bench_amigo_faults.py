"""What the clients of Amigo make of faults: one row for each, with what a caller sees.

    python benchmarks/bench_amigo_faults.py     # a minute

The vendor's client and this library meet the same faults at the same simulated service, in a process of its own.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from amigo_service import Remote, amigo_service
from bench_amigo import CLIENTS, client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_BROKEN: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("the documentation's own example stream", "good", {"events": "example"}),
    ("`user-message-available` in a create stream", "good", {"user_message_in_create": True}),
    ("an event of an unknown type", "unknown event", {}),
    ("the documented action `dynamic-behavior-triggered`", "unknown action", {}),
    ("U+2028 inside a message", "separator", {}),
    ("a line that is no JSON", "garbage", {}),
    ("the body ends before the interaction is complete", "ends early", {}),
    ("the connection breaks in mid-stream", "cut", {}),
    ("an `error` event: nothing was kept", "void", {}),
    ("an `error` event after completion: it is saved", "saved, then failed", {}),
)


def described(error: BaseException) -> str:
    """Return an error as its type and the status that it knows."""
    kind = type(error)
    status = getattr(error, "status", None) or getattr(error, "status_code", None)
    return f"{kind.__module__.split('.')[0]}.{kind.__name__}" + (f" ({status})" if status else "")


async def outcome(action: Awaitable[str]) -> str:
    """Return the outcome: its own words, or the error."""
    try:
        return await asyncio.wait_for(action, 20)
    except TimeoutError as error:
        return "still waiting after 20 s" if type(error) is TimeoutError else described(error)
    except Exception as error:  # noqa: BLE001 - any error of a client is the result
        return described(error)


async def read(talker: Any, message: str = "good", **options: Any) -> str:
    """Read a stream, as a program does that wants the text."""
    said, complete = "", False
    async for event in talker.events(message, **options):
        said += event.message if event.type == "new-message" else ""
        complete = complete or event.type == "interaction-complete"
    return f"{said!r}, and no sign that it is not whole" if not complete else f"{said!r}"


async def finish(talker: Any, remote: Remote) -> str:
    """Finish a conversation at a service that takes six seconds for it."""
    conversation = ""
    async for event in talker.events("good"):
        conversation = getattr(event, "conversation_id", None) or conversation
    remote("finish_takes", 6.0)
    try:
        await talker.finish(conversation)
    finally:
        remote("finish_takes", 0.0)
    return "finished"


async def begin_only(talker: Any, remote: Remote) -> str:
    """Await the call that begins a conversation, and look whether anything was sent."""
    before = remote("counts")["asked"]
    await talker.begin_only("good")
    await asyncio.sleep(0.2)
    return "sent" if remote("counts")["asked"] > before else "nothing sent"


async def leave(talker: Any, remote: Remote) -> str:
    """Leave the loop after the first piece, the stream still referenced, and look whether it is let go of."""
    stream = talker.stream("slow")
    async for event in stream:
        if event.type == "new-message":
            break
    await talker.leave(stream)
    await asyncio.sleep(0.3)
    return f"{remote('counts')['open']} connections open"


async def faults(name: str, remote: Remote) -> dict[str, str]:
    """One column of the table."""
    column: dict[str, str] = {}

    async def meet(what: str, action: Callable[[Any], Awaitable[str]], **quirks: Any) -> None:
        remote("quirks", **quirks)
        async with client(name, remote.known, remote.service_id) as talker:
            column[what] = await outcome(action(talker))
        remote("quirks")
        remote("clear")

    for what, message, quirks in _BROKEN:
        await meet(what, partial(read, message=message), **quirks)
    for status in (429, 503):
        remote("refuse", status, on="sign_in", times=20)
        await meet(f"sign-in answered with {status}", read)
    remote("refuse", 409, "the conversation is finished", on="create")
    await meet("a stream refused with 409", read)
    remote("refuse", 429, on="create", retry_after=1)
    await meet("a stream refused with 429, `Retry-After: 1`", read)
    await meet("tags on a new conversation", lambda talker: read(talker, tags={"topic": "order"}))
    await meet("finishing takes 6 s", lambda talker: finish(talker, remote))
    await meet("`await` on the call that begins a conversation", lambda talker: begin_only(talker, remote))
    await meet("leaving a stream early", lambda talker: leave(talker, remote))
    async with client(name, remote.known, remote.service_id) as talker:
        shown = remote.known["api_key"] in repr(talker.settings)
        column["the key in `repr()` of what holds it"] = "shown" if shown else "not shown"
    return column


def main() -> None:
    """Print the table."""
    with amigo_service() as remote:
        columns = {name: asyncio.run(faults(name, remote)) for name in CLIENTS}
    print("| fault | vendor's client | this library |\n| --- | --- | --- |")
    for what in columns["ours"]:
        print(f"| {what} | {columns['vendor'][what]} | {columns['ours'][what]} |")


if __name__ == "__main__":
    main()
