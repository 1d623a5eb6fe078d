"""The users and services of an organisation: https://api.amigo.ai/v1/openapi.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from nairi_async._core import checks as common
from nairi_async.amigo import checks
from nairi_async.amigo.listing import AmigoServices, AmigoUsers
from nairi_async.errors import InvalidArgumentError
from nairi_async.typing import UNSET

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nairi_async.amigo.api import Api
    from nairi_async.amigo.directory_models import CreatedUser
    from nairi_async.typing import AmigoServiceSort, AmigoUserSort, Unset

MAX_SERVICES: Final = 20
"""Most services on a page."""
MAX_USERS: Final = 100
"""Most users on a page."""
_SERVICE_SORTS: Final = ("+name", "-name", "+is_active", "-is_active")
_USER_FIELDS: Final = (
    "first_name",
    "last_name",
    "email",
    "user_stats.num_conversations",
    "user_stats.num_messages",
    "user_stats.last_message_time",
)
_USER_SORTS: Final = tuple(f"{sign}{name}" for name in _USER_FIELDS for sign in "+-")
_VARIABLE: Final = re.compile(r"[a-z_][a-z0-9_]+")
_MOST_VARIABLES: Final = 19
_MOST_SECRETS: Final = 20
_MOST_KEYTERMS: Final = 20


class DirectoryMethods:
    """The part of `AmigoSession` that is about users and services. A call that fails raises a `NairiError`."""

    _api: Api

    def services(
        self,
        *,
        name: str | None = None,
        id: str | Iterable[str] = (),  # noqa: A002 - the service's name for it
        is_active: bool | None = None,
        tags: Mapping[str, str | None] | Iterable[str] = (),
        sort_by: AmigoServiceSort | Iterable[AmigoServiceSort] = (),
        page_size: int = MAX_SERVICES,
    ) -> AmigoServices:
        """List the services that the user may see, reading page by page during the iteration.

        Iterate over it, or `await` it for a list: `[service] = await amigo.services(name="Support")`.

        Args:
            name: Only services of exactly this name. All pages are read, since the service cannot search for it.
            id: Only these services.
            is_active: Only active ones, or only inactive ones.
            tags: As for `conversations`.
            sort_by: `name` or `is_active` after `+` or `-`; further keys order equals.
            page_size: Services of one request, at most 20.
        """
        wanted = checks.optional_text("name", name)
        query = [("id", service) for service in checks.identifiers("id", id)]
        if is_active is not None:
            query.append(("is_active", "true" if common.flag("is_active", is_active) else "false"))
        query += [("tags", tag) for tag in checks.tag_filter(tags)]
        query += [("sort_by", key) for key in checks.some_of("sort_by", sort_by, _SERVICE_SORTS)]
        query.append(("limit", str(checks.number("page_size", page_size, MAX_SERVICES))))
        return AmigoServices(self._api.services, query, lambda service: wanted is None or service.name == wanted)

    def users(
        self,
        *,
        user_id: str | Iterable[str] = (),
        email: str | Iterable[str] = (),
        sort_by: AmigoUserSort | Iterable[AmigoUserSort] = (),
        page_size: int = MAX_USERS,
    ) -> AmigoUsers:
        """List the users whom the user may see, reading page by page; iterate over it, or `await` it for a list.

        Args:
            user_id: Only these users.
            email: Only users with one of these addresses.
            sort_by: A field after `+` or `-`, such as `+email`; further keys order equals.
            page_size: Users of one request, at most 100.
        """
        query = [("user_id", user) for user in dict.fromkeys(checks.texts("user_id", user_id))]
        query += [("email", address) for address in dict.fromkeys(checks.texts("email", email))]
        query += [("sort_by", key) for key in checks.some_of("sort_by", sort_by, _USER_SORTS)]
        query.append(("limit", str(checks.number("page_size", page_size, MAX_USERS))))
        return AmigoUsers(self._api.users, query)

    async def create_user(
        self,
        email: str,
        *,
        first_name: str,
        last_name: str,
        role_name: str,
        login_link: str | None = None,
        variables: Mapping[str, str] | None = None,
        sensitive_variables: Mapping[str, str] | None = None,
        preferences: Mapping[str, Any] | None = None,
    ) -> CreatedUser:
        """Create a user, such as a visitor, for whom `as_user` then speaks.

        Args:
            email: The address that identifies the user in the organisation.
            first_name: First name; not blank.
            last_name: Last name; not blank.
            role_name: The role; the session's user must have greater privileges.
            login_link: A link that the service sends to the address; no email is sent without it.
            variables: At most 19 variables for the agent's tools: lower-case names, with their texts.
            sensitive_variables: At most 20 whose values cannot be read afterwards.
            preferences: Preferences by the service's names, in place of the organisation's defaults.

        Raises:
            ConflictError: the organisation has a user with this address, or a related operation is in progress.
            OutcomeUnknownError: the request left, and its response was lost: `users(email=…)` shows whether it ran.
        """
        document: dict[str, Any] = {
            "first_name": checks.text("first_name", first_name),
            "last_name": checks.text("last_name", last_name),
            "email": checks.text("email", email),
            "role_name": checks.text("role_name", role_name),
        }
        if login_link is not None:
            document["login_link"] = checks.text("login_link", login_link)
        if variables:
            document["nonsensitive_user_variables"] = _variables("variables", variables, _MOST_VARIABLES)
        if sensitive_variables:
            checked = _variables("sensitive_variables", sensitive_variables, _MOST_SECRETS)
            document["sensitive_user_variables"] = checked
        if preferences is not None:
            if not isinstance(preferences, Mapping):
                raise InvalidArgumentError(f"preferences must be a mapping, not {type(preferences).__name__}")
            document["user_preferences"] = dict(preferences)
        return await self._api.create_user(document)

    async def update_user(
        self,
        user_id: str,
        *,
        first_name: str | None = None,
        last_name: str | None = None,
        preferred_language: str | Unset | None = UNSET,
        timezone: str | Unset | None = UNSET,
        enable_response_recommendation: bool | None = None,
        conversations_visible_to_admins: bool | None = None,
        user_model_visible_to_admins: bool | None = None,
        additional_context: Iterable[str] | None = None,
        audio_keyterms: Iterable[str] | None = None,
    ) -> None:
        """Change what is given of a user, and leave the rest as it is.

        Args:
            user_id: The user.
            first_name: First name; not blank.
            last_name: Last name; not blank.
            preferred_language: ISO 639-3 code of the language of the agent; `None` for the agent's own.
            timezone: Name in the IANA database; `None` for the organisation's.
            enable_response_recommendation: Whether responses are recommended to a user who has not replied for a while.
            conversations_visible_to_admins: Whether administrators see the user's conversations.
            user_model_visible_to_admins: Whether administrators see the user's model.
            additional_context: Texts about the user.
            audio_keyterms: At most 20 terms that transcriptions easily get wrong.

        Raises:
            NotFoundError: there is no such user.
        """
        user = checks.user_identifier("user_id", user_id)
        texts = {"first_name": first_name, "last_name": last_name}
        settings = {"preferred_language": preferred_language, "timezone": timezone}
        flags = {
            "enable_response_recommendation": enable_response_recommendation,
            "conversations_visible_to_admins": conversations_visible_to_admins,
            "user_model_visible_to_admins": user_model_visible_to_admins,
        }
        document: dict[str, Any] = {
            **{name: checks.text(name, value) for name, value in texts.items() if value is not None},
            **{name: checks.optional_text(name, value) for name, value in settings.items() if value is not UNSET},
            **{name: common.flag(name, value) for name, value in flags.items() if value is not None},
        }
        if additional_context is not None:
            document["additional_context"] = list(checks.texts("additional_context", additional_context))
        if audio_keyterms is not None:
            terms = list(checks.texts("audio_keyterms", audio_keyterms))
            if len(terms) > _MOST_KEYTERMS:
                raise InvalidArgumentError(f"{len(terms)} audio_keyterms: a user has at most {_MOST_KEYTERMS}")
            document["audio_keyterms"] = terms
        if not document:
            raise InvalidArgumentError("there is nothing to change: give at least one field")
        await self._api.update_user(user, document)

    async def delete_user(self, user_id: str) -> None:
        """Delete a user from the organisation.

        Raises:
            NotFoundError: there is no such user.
            OutcomeUnknownError: the request left, and its response was lost; you may repeat the call.
        """
        await self._api.delete_user(checks.user_identifier("user_id", user_id))


def _variables(what: str, value: object, most: int) -> dict[str, str]:
    """Check variables of a user: names of the service's form, each with a text. No error shows a value."""
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{what} must be a mapping of names to texts, not {type(value).__name__}")
    if len(value) > most:
        raise InvalidArgumentError(f"{len(value)} {what}: a user has at most {most}")
    for name, text in value.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise InvalidArgumentError(f"the name of a variable may have a-z, digits and _, got {name!r}")
        if not isinstance(text, str):
            raise InvalidArgumentError(f"the variable {name} must be a text, not {type(text).__name__}")
    return dict(value)
