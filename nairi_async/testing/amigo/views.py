"""The JSON objects that reads return, with the quirks applied, and pages of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from nairi_async.testing.amigo.quirks import AmigoQuirks
from nairi_async.testing.ids import stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nairi_async.testing.amigo.state import Conversation
    from nairi_async.testing.amigo.timeline import ScriptedMessage

_POST_PROCESSINGS = ["generate-user-models", "extract-memories", "compute-metrics"]
_VERSION = [f"{1:024x}", 1]


@frozen(kw_only=True)
class Page:
    """Which part of a list is returned, and in which order."""

    limit: int
    token: int
    sort: Sequence[str]


@frozen
class View:
    """Shows the state of the service as its quirks allow."""

    quirks: AmigoQuirks

    def conversation(self, conversation: Conversation, now: float) -> dict[str, Any]:
        """Return one conversation of the list."""
        messages = conversation.messages(now)
        ended = conversation.has_ended(now)
        analyzed = ended and not conversation.is_test
        spoken = [one.text for one in messages if one.type == "agent-message"]
        return self.extended(
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
                "num_messages": sum(one.type != "agent-inner-thought" for one in messages),
                "tags": conversation.tags,
            }
        )

    def message(self, message: ScriptedMessage) -> dict[str, Any]:
        """Return one message of the list."""
        return self.extended(
            {
                "id": message.id,
                "interaction_id": message.interaction_id,
                "created_at": self.stamp(message.created),
                "sender": message.sender,
                "message": message.text,
                "format": message.format,
                "message_type": message.type,
            }
        )

    def page(self, name: str, rows: Iterable[dict[str, Any]], page: Page) -> dict[str, Any]:
        """Return a page of rows, given oldest first; its token is the offset of the next page."""
        ordered = list(rows)
        if self.quirks.order == "newest first":
            ordered.reverse()
        for key in reversed(page.sort):
            ordered.sort(key=_field(key[1:]), reverse=key.startswith("-"))
        end = page.token + page.limit
        has_more = end < len(ordered)
        return self.extended(
            {
                name: ordered[page.token : end],
                "has_more": has_more,
                "continuation_token": end if has_more else None,
            }
        )

    def extended(self, shown: dict[str, Any]) -> dict[str, Any]:
        """Return an object of a response, with undocumented fields if the quirks add them."""
        return {**shown, "x_unknown": {"nested": [1, None]}} if self.quirks.unknown_fields else shown

    def stamp(self, at: float) -> str:
        """Return a time by the server's clock."""
        return stamp(at + self.quirks.clock_skew)


def _field(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: str(row[name])
