"""What a session offers around its streams: lists, messages, tags, insights, suggestions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from nairi_async._core import checks as common
from nairi_async.amigo import checks
from nairi_async.amigo.listing import AmigoConversations, AmigoMessages
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nairi_async.amigo.api import Api
    from nairi_async.amigo.models import Insights, MessageSource, Starter
    from nairi_async.amigo.wire import Page

MAX_CONVERSATIONS: Final = 150
"""Conversations on a page (api: list conversations)."""
MAX_MESSAGES: Final = 500
"""Messages on a page (api: list messages)."""
_MOST_STARTERS: Final = 10
_CONVERSATION_SORTS: Final = ("+created_at", "-created_at")
_MESSAGE_SORTS: Final = ("+created_at", "-created_at", "+interaction_id", "-interaction_id")


class ResourceMethods:
    """The part of `AmigoSession` that begins no interaction. Calls raise `NairiError` as design section 4 says."""

    _api: Api

    def conversations(
        self,
        *,
        user_id: str | Iterable[str] = (),
        service_id: str | Iterable[str] = (),
        id: str | Iterable[str] = (),  # noqa: A002 - the service's word
        is_finished: bool | None = None,
        tags: Mapping[str, str | None] | Iterable[str] = (),
        sort_by: str | Iterable[str] = (),
        page_size: int = MAX_CONVERSATIONS,
    ) -> AmigoConversations:
        """The conversations that the user may see, read page by page as the iteration goes on (api: list).

        Args:
            user_id: Only those of these users.
            service_id: Only those of these services.
            id: Only these.
            is_finished: Only finished ones, or only others.
            tags: Only those with all of these tags: names with the value wanted, `"*"` for any and `None` for none; or
                names alone, for any value.
            sort_by: `+created_at` or `-created_at`.
            page_size: Conversations to read at once, at most 150.
        """
        query = [("user_id", user) for user in checks.texts("user_id", user_id)]
        query += [("service_id", service) for service in checks.identifiers("service_id", service_id)]
        query += [("id", conversation) for conversation in checks.identifiers("id", id)]
        if is_finished is not None:
            query.append(("is_finished", "true" if common.flag("is_finished", is_finished) else "false"))
        query += [("tag", tag) for tag in _tag_filter(tags)]
        query += [("sort_by", key) for key in checks.some_of("sort_by", sort_by, _CONVERSATION_SORTS)]
        query.append(("limit", str(checks.number("page_size", page_size, MAX_CONVERSATIONS))))
        return AmigoConversations(self._api.conversations, query)

    def messages(
        self,
        conversation_id: str,
        *,
        id: str | Iterable[str] = (),  # noqa: A002 - the service's word
        interaction_id: str | Iterable[str] = (),
        message_type: str | Iterable[str] = (),
        sort_by: str | Iterable[str] = "+created_at",
        page_size: int = MAX_MESSAGES,
    ) -> AmigoMessages:
        """The messages of a conversation, read page by page as the iteration goes on (api: list messages).

        Args:
            conversation_id: The conversation.
            id: Only these.
            interaction_id: Only those of these interactions.
            message_type: Only `user-message`, `agent-message`, `agent-inner-thought`, `external-event`, or some of
                them; all but the inner thoughts unless given.
            sort_by: `+created_at` or `-created_at`, `+interaction_id` or `-interaction_id`, or some of them.
            page_size: Messages to read at once, at most 500.
        """
        conversation = checks.identifier("conversation_id", conversation_id)
        query = [("id", message) for message in checks.identifiers("id", id)]
        query += [("interaction_id", part) for part in checks.identifiers("interaction_id", interaction_id)]
        query += [("message_type", kind) for kind in checks.some_of("message_type", message_type, checks.MESSAGE_TYPES)]
        query += [("sort_by", key) for key in checks.some_of("sort_by", sort_by, _MESSAGE_SORTS)]
        query.append(("limit", str(checks.number("page_size", page_size, MAX_MESSAGES))))

        async def read(parameters: Sequence[tuple[str, str]]) -> Page:
            return await self._api.messages(conversation, parameters)

        return AmigoMessages(read, query)

    async def message_source(self, conversation_id: str, message_id: str, *, long_lived: bool = False) -> MessageSource:
        """Where the audio of a voice message is (api: message source).

        Args:
            conversation_id: The conversation.
            message_id: The message; `BadRequestError` for one of text.
            long_lived: An address that is good for 12 hours.
        """
        conversation = checks.identifier("conversation_id", conversation_id)
        message = checks.identifier("message_id", message_id)
        source: MessageSource = await self._api.source(
            conversation, message, long_lived=common.flag("long_lived", long_lived)
        )
        return source

    async def change_tags(
        self,
        conversation_id: str,
        updates: Mapping[str, str | None] | None = None,
        *,
        deletes: str | Iterable[str] = (),
    ) -> None:
        """Set and delete tags (api: tags); `BadRequestError` beyond 20 in all.

        Args:
            conversation_id: The conversation.
            updates: Names with their values, which are words, or `None`.
            deletes: Names to delete.
        """
        conversation = checks.identifier("conversation_id", conversation_id)
        wanted, unwanted = checks.tags(updates or {}, is_update=True), checks.tag_names(deletes)
        if not wanted and not unwanted:
            raise InvalidArgumentError("there is no tag to set or to delete")
        if both := set(wanted) & set(unwanted):
            raise InvalidArgumentError(f"tags to set and to delete at once: {', '.join(sorted(both))}")
        await self._api.tag(conversation, {"updates": wanted, "deletes": unwanted})

    async def recommended_responses(
        self, conversation_id: str, interaction_id: str, *, context: str | None = None
    ) -> tuple[str, ...]:
        """What the user could say next, after the latest interaction of an unfinished conversation (api: recommend).

        Args:
            conversation_id: The conversation.
            interaction_id: Its latest interaction; `BadRequestError` for another.
            context: What to bear in mind.
        """
        conversation = checks.identifier("conversation_id", conversation_id)
        interaction = checks.identifier("interaction_id", interaction_id)
        said = checks.optional_text("context", context)
        return await self._api.recommend(conversation, interaction, {} if said is None else {"context": said})

    async def insights(self, conversation_id: str, interaction_id: str) -> Insights:
        """What the agent had in mind in an interaction (api: insights); needs a permission."""
        conversation = checks.identifier("conversation_id", conversation_id)
        interaction = checks.identifier("interaction_id", interaction_id)
        insights: Insights = await self._api.insights(conversation, interaction)
        return insights

    async def starters(
        self,
        service_id: str,
        facets: str | Iterable[str],
        generation_instructions: str,
        *,
        min_count: int = 1,
        max_count: int = _MOST_STARTERS,
        service_version_set_name: str = "release",
    ) -> tuple[Starter, ...]:
        """Ways to begin a conversation with a service (api: conversation starters).

        Args:
            service_id: The service.
            facets: What they are to be about; at least one.
            generation_instructions: How to make them.
            min_count: At least so many, from 1 to 10.
            max_count: At most so many, from 1 to 10.
            service_version_set_name: The version set to make them for.
        """
        wanted = checks.texts("facets", facets)
        if not wanted:
            raise InvalidArgumentError("at least one facet is needed")
        fewest = checks.number("min_count", min_count, _MOST_STARTERS)
        most = checks.number("max_count", max_count, _MOST_STARTERS)
        if fewest > most:
            raise InvalidArgumentError(f"min_count {fewest} is more than max_count {most}")
        document: dict[str, Any] = {
            "service_id": checks.identifier("service_id", service_id),
            "service_version_set_name": checks.text("service_version_set_name", service_version_set_name),
            "facets": list(wanted),
            "min_count": fewest,
            "max_count": most,
            "generation_instructions": checks.text("generation_instructions", generation_instructions),
        }
        starters: tuple[Starter, ...] = await self._api.starters(document)
        return starters


def _tag_filter(value: Mapping[str, str | None] | Iterable[str]) -> list[str]:
    if isinstance(value, Mapping):
        checked = checks.tags({name: None if said == "*" else said for name, said in value.items()})
        return [f"{name}:{'*' if value[name] == '*' else checked[name] or ''}" for name in checked]
    return [f"{name}:*" for name in checks.tag_names(value)]
