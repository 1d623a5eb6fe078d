"""Frozen values that calls return. Field names are the service's own; an absent field is `None`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import field

from nairi_async._core.outcome import PromptOutcome
from nairi_async._core.records import frozen
from nairi_async.amigo.action import VersionPair
from nairi_async.amigo.events import ErrorEvent
from nairi_async.errors import NairiError


@frozen(kw_only=True)
class AmigoReply:
    """The reply of an interaction that is saved."""

    text: str
    """The whole text, or the transcript of a voice reply; empty where the agent said nothing."""
    conversation_id: str | None = None
    """The conversation."""
    interaction_id: str | None = None
    """The interaction, for insights and recommended responses; `None` where the service did not name it."""
    message_id: str | None = None
    """The agent's message."""
    user_message_id: str | None = None
    """The message that it replies to."""
    user_message: str | None = None
    """That message's text, or the transcript of a voice message."""
    conversation_completed: bool = False
    """Whether the agent has ended the conversation: it accepts no further message and must not be finished."""
    warning: ErrorEvent | None = None
    """The post-processing failed after the interaction was saved; finishing the conversation runs it again."""
    audio: bytes = field(default=b"", repr=False)
    """A voice reply's PCM16 samples; the sample rate is not documented."""


@frozen(kw_only=True)
class AmigoOutcome(PromptOutcome[AmigoReply]):
    """How one prompt of many ended: with a reply, or with an error that was not raised."""

    index: int
    """Position of the prompt in the input, counted from 0."""
    prompt: str
    """The prompt."""
    conversation_id: str | None = None
    """The conversation, if one was created."""
    reply: AmigoReply | None = None
    """The reply; `None` where there is an error."""
    error: NairiError | None = None
    """Why there is no reply."""


@frozen(kw_only=True)
class VersionSetInfo:
    """The versions that a conversation uses."""

    name: str = ""
    """Name of the version set; `unknown` for old conversations."""
    agent_version_info: VersionPair | None = None
    """The agent."""
    service_hierarchical_state_machine_version_info: VersionPair | None = None
    """The state machine."""
    llm_model_preferences: Mapping[str, Any] | None = None
    """For each purpose the model and its parameters."""


@frozen(kw_only=True)
class ConversationInfo:
    """One row of the list of conversations."""

    id: str = ""
    """The conversation."""
    user_id: str = ""
    """Its user."""
    service_id: str = ""
    """Its service."""
    created_at: datetime | None = None
    """When it began, by the service's clock."""
    is_finished: bool | None = None
    """Whether it accepts no further message."""
    is_analyzed: bool | None = None
    """Whether the analysis after its end is done."""
    completed_post_processings: tuple[str, ...] = ()
    """`generate-user-models`, `extract-memories`, `compute-metrics`, or a value yet unknown."""
    final_message: str = ""
    """Its last message; empty without the permission to read it."""
    num_messages: int | None = None
    """Number of messages."""
    tags: Mapping[str, str | None] = field(factory=dict)
    """Its tags; a value may be `None`."""
    version_set_info: VersionSetInfo | None = None
    """The versions that it uses."""


@frozen(kw_only=True)
class AmigoMessage:
    """One message of a conversation."""

    id: str = ""
    """Identity of the message."""
    interaction_id: str = ""
    """The interaction that it belongs to."""
    created_at: datetime | None = None
    """When it was made, by the service's clock."""
    sender: str = ""
    """Display name of the sender."""
    message: str = ""
    """The text, or the transcript."""
    format: str = ""
    """`text` or `voice`."""
    message_type: str = ""
    """`user-message`, `agent-message`, `agent-inner-thought`, `external-event`, or a value yet unknown."""


@frozen(kw_only=True)
class MessageSource:
    """Where the audio of a voice message can be fetched."""

    url: str = field(default="", repr=False)
    """Its address, which needs no sign-in: keep it secret."""
    expires_at: datetime | None = None
    """When the address expires."""
    content_type: str = ""
    """`audio/mpeg` or `audio/wav`."""


@frozen(kw_only=True)
class Insights:
    """The state and the reasoning of the agent in one interaction."""

    current_state_name: str = ""
    """The state of the agent."""
    current_state_action: str = ""
    """The action of that state."""
    current_state_objective: str = ""
    """The objective of that action."""
    state_transition_logs: tuple[Mapping[str, Any], ...] = ()
    """The transitions between states."""
    working_memory: tuple[Mapping[str, Any], ...] = ()
    """Its working memory."""
    reflections: tuple[str, ...] = ()
    """Its reflections."""
    triggered_dynamic_behavior_set_version_info: VersionPair | None = None
    """The dynamic behaviour that was triggered."""
    select_next_action_tool_call_logs: tuple[tuple[Mapping[str, Any], ...], ...] = ()
    """Tools called to choose the next action, by round."""
    engage_user_tool_call_logs: tuple[tuple[Mapping[str, Any], ...], ...] = ()
    """Tools called to reply, by round."""


@frozen(kw_only=True)
class Starter:
    """A suggested first message of a conversation."""

    prompt: str = ""
    """What the user could say."""
    facets: tuple[str, ...] = ()
    """The facets that it is about."""
