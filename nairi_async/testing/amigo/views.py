"""What a read shows: objects of the wire as the quirks of the day make them, and pages of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from nairi_async.testing.amigo.quirks import AmigoQuirks
from nairi_async.testing.ids import stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nairi_async.testing.amigo.turn import Entry
    from nairi_async.testing.amigo.world import Conversation

_POST_PROCESSINGS = ["generate-user-models", "extract-memories", "compute-metrics"]
_VERSION = [f"{1:024x}", 1]


@frozen(kw_only=True)
class Page:
    """Which part of a list is asked for, in which order."""

    limit: int
    token: int
    sort: Sequence[str]


@frozen
class View:
    """The world under its quirks."""

    quirks: AmigoQuirks

    def conversation(self, conversation: Conversation, now: float) -> dict[str, Any]:
        """Return one conversation of the list."""
        entries = conversation.entries(now)
        ended = conversation.has_ended(now)
        analyzed = ended and not conversation.is_test
        spoken = [entry.text for entry in entries if entry.type == "agent-message"]
        return self.odd(
            {
                "id": conversation.id,
                "user_id": conversation.user_id,
                "created_at": self.stamp(conversation.created),
                "is_finished": ended,
                "is_analyzed": analyzed,
                "completed_post_processings": _POST_PROCESSINGS if analyzed else [],
                "final_message": spoken[-1] if spoken else "",
                "service_id": conversation.service.id,
                "version_set_info": {
                    "name": conversation.version_set,
                    "agent_version_info": _VERSION,
                    "service_hierarchical_state_machine_version_info": _VERSION,
                    "llm_model_preferences": {},
                },
                "num_messages": sum(entry.type != "agent-inner-thought" for entry in entries),
                "tags": conversation.tags,
            }
        )

    def message(self, entry: Entry) -> dict[str, Any]:
        """Return one message of the list."""
        return self.odd(
            {
                "id": entry.id,
                "interaction_id": entry.interaction_id,
                "created_at": self.stamp(entry.created),
                "sender": entry.sender,
                "message": entry.text,
                "format": entry.format,
                "message_type": entry.type,
            }
        )

    def page(self, name: str, rows: Iterable[dict[str, Any]], page: Page) -> dict[str, Any]:
        """Return a page of rows, which come oldest first; its token is the place where the next one begins."""
        ordered = list(rows)
        if self.quirks.order == "newest first":
            ordered.reverse()
        for key in reversed(page.sort):
            ordered.sort(key=_field(key[1:]), reverse=key.startswith("-"))
        end = page.token + page.limit
        has_more = end < len(ordered)
        return self.odd(
            {
                name: ordered[page.token : end],
                "has_more": has_more,
                "continuation_token": end if has_more else None,
            }
        )

    def odd(self, shown: dict[str, Any]) -> dict[str, Any]:
        """Return an object of an answer, with fields that no document knows if such are wanted."""
        return {**shown, "x_unknown": {"nested": [1, None]}} if self.quirks.unknown_fields else shown

    def stamp(self, at: float) -> str:
        """Return a time as the server's clock has it."""
        return stamp(at + self.quirks.clock_skew)


def _field(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: str(row[name])
