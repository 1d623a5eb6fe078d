"""The states of an item, what each of them means, and what is done about it: pure, and the same in every store.

| state | meaning | next |
| --- | --- | --- |
| `unsent` | the prompt provably does not run | `sending`, or `unusable` |
| `sending` | the prompt may have left; after a crash it may run or not | `running`, `unsent`, `failed` |
| `running` | the prompt became a turn, whose ids are stored | `done`, `failed` |
| `unusable` | the item cannot be sent as it is, such as one whose file is missing | `sending`, `unsent` |
| `failed` | it ended without a reply; the error is stored | `unsent`, when failures are to be retried |
| `done` | it has a reply, which is stored | |

The prompt leaves only after `sending` is stored, so that no prompt runs that the store does not know. An outcome is
stored before it is handed over. What a process left `sending` is looked up at the service: found, the item is
`running`; provably absent, it is sent again; otherwise it stays in doubt, which is reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from attrs import field

from nairi_async._core.records import define

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nairi_async.models import Turn

State = Literal["unsent", "sending", "running", "unusable", "failed", "done"]
"""Where an item stands."""
Step = Literal["send", "look up", "wait", "nothing"]
"""What is to be done next about an item."""

TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    "unsent": frozenset({"sending", "unusable", "failed"}),
    "sending": frozenset({"sending", "running", "unsent", "failed"}),
    "running": frozenset({"running", "done", "failed"}),
    "unusable": frozenset({"sending", "unsent"}),
    "failed": frozenset({"unsent"}),
    "done": frozenset(),
}
"""The states that may follow each state; `sending` again is a prompt that provably did not arrive."""


def next_step(state: State, *, is_mine: bool = False) -> Step:
    """Return what is to be done about an item.

    Args:
        state: Where the item stands in the store.
        is_mine: Whether this very caller stored the state `sending`, and has not sent the prompt since. For anyone
            else the prompt may have left.
    """
    if state in {"unsent", "unusable"} or (state == "sending" and is_mine):
        return "send"
    if state == "sending":
        return "look up"
    return "wait" if state == "running" else "nothing"


# Not frozen, though nothing sets its fields: of a frozen class each field is set by a call, for every prompt.
@define(kw_only=True)
class Entry:
    """An item as its store holds it."""

    number: int
    id: str
    place: int
    prompt: str
    attachments: tuple[str, ...] = ()
    state: State
    sent_at: float | None
    """A time before the prompt left, in seconds since the epoch: by the service's clock or the sending machine's,
    whichever was behind."""
    attachment_ids: tuple[str, ...] = ()
    """Ids of the files that the prompt was sent with."""
    turn: Turn | None = None
    conversation: str | None = None
    """The conversation that the prompt continues; `None` for one that starts a conversation."""
    previous: str | None = None
    """The last user message of that conversation before the prompt, where it is known."""
    rest: tuple[str, ...] = ()
    """The prompts that follow, each after the turn before it."""
    repairs: int = 0
    """How many follow-ups were sent because a reply did not have the required type; this prompt may be the last."""
    earlier: tuple[str, ...] = ()
    """The turns before this one, encoded by `documents`."""
    prompts: tuple[str, ...] = ()
    """All prompts of the record; empty in a store that takes single prompts only."""
    fields: Mapping[str, object] = field(factory=dict)
    """The record's other fields, which come back in its outcome."""
