"""The methods of a session besides its streams: lists, messages, tags, insights, suggestions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nairi_async._core import checks as common
from nairi_async.amigo import checks
from nairi_async.amigo.listing import AmigoConversations, AmigoInsights, AmigoMessages
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nairi_async.amigo.api import Api
    from nairi_async.amigo.models import Insights, MessageSource, Starter
    from nairi_async.amigo.wire import Page
    from nairi_async.typing import AmigoConversationSort, AmigoMessageSort, AmigoMessageType

MAX_CONVERSATIONS: Final = 150
"""Most conversations on a page."""
MAX_MESSAGES: Final = 500
"""Most messages on a page."""
_MOST_STARTERS: Final = 10
_CONVERSATION_SORTS: Final = ("+created_at", "-created_at")
_MESSAGE_SORTS: Final = ("+created_at", "-created_at", "+interaction_id", "-interaction_id")


class ResourceMethods:
    """The part of `AmigoSession` that begins no interaction. A call that fails raises a `NairiError`."""

    _api: Api

    def conversations(
        self,
        *,
        user_id: str | Iterable[str] = (),
        service_id: str | Iterable[str] = (),
        id: str | Iterable[str] = (),  # noqa: A002 - the service's name for it
        is_finished: bool | None = None,
        tags: Mapping[str, str | None] | Iterable[str] = (),
        sort_by: AmigoConversationSort | Iterable[AmigoConversationSort] = (),
        page_size: int = MAX_CONVERSATIONS,
    ) -> AmigoConversations:
        """List the conversations that the user may see, reading page by page during the iteration.

        Args:
            user_id: Only conversations of these users.
            service_id: Only conversations of these services.
            id: Only these conversations.
            is_finished: Only finished ones, or only unfinished ones.
            tags: Only conversations with all of these tags: names with their value, `"*"` for any and `None` for none;
                or names alone, for any value.
            sort_by: `+created_at` or `-created_at`.
            page_size: Conversations of one request, at most 150.
        """
        query = [("user_id", user) for user in checks.texts("user_id", user_id)]
        query += [("service_id", service) for service in checks.identifiers("service_id", service_id)]
        query += [("id", conversation) for conversation in checks.identifiers("id", id)]
        if is_finished is not None:
            query.append(("is_finished", "true" if common.flag("is_finished", is_finished) else "false"))
        query += [("tag", tag) for tag in checks.tag_filter(tags)]
        query += [("sort_by", key) for key in checks.some_of("sort_by", sort_by, _CONVERSATION_SORTS)]
        query.append(("limit", str(checks.number("page_size", page_size, MAX_CONVERSATIONS))))
        return AmigoConversations(self._api.conversations, query)

    def messages(
        self,
        conversation_id: str,
        *,
        id: str | Iterable[str] = (),  # noqa: A002 - the service's name for it
        interaction_id: str | Iterable[str] = (),
        message_type: AmigoMessageType | Iterable[AmigoMessageType] = (),
        sort_by: AmigoMessageSort | Iterable[AmigoMessageSort] = "+created_at",
        page_size: int = MAX_MESSAGES,
    ) -> AmigoMessages:
        """List the messages of a conversation, reading page by page during the iteration.

        Args:
            conversation_id: The conversation.
            id: Only these messages.
            interaction_id: Only messages of these interactions.
            message_type: Only messages of these types; by default all but `agent-inner-thought`.
            sort_by: `created_at` or `interaction_id` after `+` or `-`; further keys order equals.
            page_size: Messages of one request, at most 500.
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
        """Return where the audio of a voice message can be fetched.

        Args:
            conversation_id: The conversation.
            message_id: The message.
            long_lived: Whether the address is valid for 12 hours.

        Raises:
            BadRequestError: the message is text.
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
        """Set and delete tags of a conversation.

        Args:
            conversation_id: The conversation.
            updates: Names with their values: letters, digits, `_` and spaces, or `None`.
            deletes: Names to delete.

        Raises:
            BadRequestError: the conversation would have more than 20 tags.
        """
        conversation = checks.identifier("conversation_id", conversation_id)
        changed, deleted = checks.tags(updates or {}, is_update=True), checks.tag_names(deletes)
        if not changed and not deleted:
            raise InvalidArgumentError("there is no tag to set or to delete")
        if both := set(changed) & set(deleted):
            raise InvalidArgumentError(f"tags cannot be set and deleted at once: {', '.join(sorted(both))}")
        await self._api.tag(conversation, {"updates": changed, "deletes": deleted})

    async def recommended_responses(
        self, conversation_id: str, interaction_id: str, *, context: str | None = None
    ) -> tuple[str, ...]:
        """Return what the user could say next, after the latest interaction of an unfinished conversation.

        Args:
            conversation_id: The conversation.
            interaction_id: Its latest interaction.
            context: What the responses should take into account.

        Raises:
            BadRequestError: the interaction is not the latest.
        """
        conversation = checks.identifier("conversation_id", conversation_id)
        interaction = checks.identifier("interaction_id", interaction_id)
        note = checks.optional_text("context", context)
        return await self._api.recommend(conversation, interaction, {} if note is None else {"context": note})

    async def insights(self, conversation_id: str, interaction_id: str) -> Insights:
        """Return the state and the reasoning of the agent in an interaction; needs a permission."""
        conversation = checks.identifier("conversation_id", conversation_id)
        interaction = checks.identifier("interaction_id", interaction_id)
        insights: Insights = await self._api.insights(conversation, interaction)
        return insights

    def conversation_insights(self, conversation_id: str) -> AmigoInsights:
        """Iterate over the insights of a whole conversation: pairs of an interaction's id and its `Insights`.

        Args:
            conversation_id: The conversation.
        """
        conversation = checks.identifier("conversation_id", conversation_id)
        return AmigoInsights(self.messages(conversation), lambda each: self._api.insights(conversation, each))

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
        """Return suggested first messages of a conversation with a service.

        Args:
            service_id: The service.
            facets: The topics; at least one.
            generation_instructions: How to phrase them.
            min_count: Least number of them, from 1 to 10.
            max_count: Highest number of them, from 1 to 10.
            service_version_set_name: The version set of the service.
        """
        topics = checks.texts("facets", facets)
        if not topics:
            raise InvalidArgumentError("at least one facet is needed")
        least = checks.number("min_count", min_count, _MOST_STARTERS)
        highest = checks.number("max_count", max_count, _MOST_STARTERS)
        if least > highest:
            raise InvalidArgumentError(f"min_count {least} is more than max_count {highest}")
        document: dict[str, Any] = {
            "service_id": checks.identifier("service_id", service_id),
            "service_version_set_name": checks.text("service_version_set_name", service_version_set_name),
            "facets": list(topics),
            "min_count": least,
            "max_count": highest,
            "generation_instructions": checks.text("generation_instructions", generation_instructions),
        }
        starters: tuple[Starter, ...] = await self._api.starters(document)
        return starters
