"""The users and services of an organisation. Field names are the service's own; an absent field is `None` or empty."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import field

from nairi_async._core.records import frozen


@frozen(kw_only=True)
class UserStats:
    """What a user has done."""

    num_conversations: int | None = None
    """Conversations that the user has created."""
    num_messages: int | None = None
    """Messages that the user has sent and received."""
    last_message_time: datetime | None = None
    """When the last of them was; `None` before the first conversation."""


@frozen(kw_only=True)
class UserInfo:
    """A user of the organisation."""

    user_id: str = ""
    """Identity of the user, for `as_user`."""
    org_id: str = ""
    """The organisation."""
    first_name: str = ""
    """First name."""
    last_name: str = ""
    """Last name."""
    email: str = ""
    """Email address, unique in the organisation."""
    role: str = ""
    """Id of the user's role."""
    user_stats: UserStats | None = None
    """What the user has done."""
    preferences: Mapping[str, Any] = field(factory=dict)
    """Preferences by name, such as `preferred_language` and `timezone`."""
    nonsensitive_variables: Mapping[str, Any] = field(factory=dict)
    """Variables that tools of the agent are given."""
    sensitive_variables: tuple[str, ...] = ()
    """Names of variables whose values cannot be read."""
    enable_actions_access: bool | None = None
    """Whether the user has access to the actions features."""


@frozen(kw_only=True)
class CreatedUser:
    """The response to the creation of a user."""

    user_id: str
    """Identity of the user, for `as_user`."""
    verify_link: str | None = None
    """The link that was sent to the user's email address, if one was."""


@frozen(kw_only=True)
class ServiceInfo:
    """A service of the organisation."""

    id: str = ""
    """Identity of the service, for `conversation` and `create_conversation`."""
    name: str = ""
    """Its name."""
    description: str = ""
    """What it is for."""
    is_active: bool | None = None
    """Whether it is active."""
    agent_id: str | None = None
    """The agent that it uses."""
    service_hierarchical_state_machine_id: str | None = None
    """The state machine that it uses."""
    version_sets: Mapping[str, Any] = field(factory=dict)
    """Its version sets by name."""
    tags: Mapping[str, str | None] = field(factory=dict)
    """Its tags; a value may be `None`."""
    keyterms: tuple[str, ...] = ()
    """Terms that transcriptions easily get wrong."""
