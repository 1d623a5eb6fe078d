"""What an agent does before it replies: the actions of `current-agent-action` events, typed.

Field names are the service's own (https://api.amigo.ai/v1/openapi.json). The set is open and has changed over time: an
action of a type that is not listed here is an `UnknownAction`, and a field that is absent, or not of the documented
type, is `None`. `raw` holds the JSON object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from nairi_async._core.records import frozen
from nairi_async.amigo.action import Action, UnknownAction, VersionPair

__all__ = [
    "Action",
    "ActionTooLong",
    "CheckIfActiveMemoryNeededCompleted",
    "DesignatedToolCallParamsGenerated",
    "DesignatedToolRetrieved",
    "EngageUserDynamicBehaviorOverride",
    "EngageUserMessageFragmentGenerated",
    "ExtractActiveMemoriesCompleted",
    "NavigateStateMachineActionStateActionSelected",
    "NavigateStateMachineAnnotationStateAnnotationRetrieved",
    "NavigateStateMachineDecisionStateDecisionStarted",
    "NavigateStateMachineDynamicBehaviorOverride",
    "NavigateStateMachineExitConditionSelected",
    "NavigateStateMachineRecallStateActiveMemoryRetrieved",
    "NavigateStateMachineRecallStateDynamicQueriesGenerated",
    "NavigateStateMachineRecallStateStaticQueriesRetrieved",
    "NavigateStateMachineReflectionStatePromptRetrieved",
    "NavigateStateMachineReflectionStateReflectionGenerated",
    "NavigateStateMachineStateTransitioned",
    "NavigateStateMachineToolCallStateToolOutputAvailable",
    "SelectDynamicBehaviorCompleted",
    "SelectDynamicBehaviorRelevanceRetrievalCompleted",
    "SelectDynamicBehaviorVectorGenerated",
    "ToolCallEnded",
    "ToolCallStarted",
    "UnknownAction",
]


@frozen(kw_only=True)
class SelectDynamicBehaviorVectorGenerated(Action):
    """A vector was generated to search for dynamic behaviours."""


@frozen(kw_only=True)
class SelectDynamicBehaviorRelevanceRetrievalCompleted(Action):
    """Dynamic behaviours that may fit were found."""


@frozen(kw_only=True)
class SelectDynamicBehaviorCompleted(Action):
    """A dynamic behaviour was chosen, or none."""

    selected_dynamic_behavior_set_version_info: VersionPair | None = None
    """The behaviour that was chosen."""
    previous_selected_dynamic_behavior_set_version_info: VersionPair | None = None
    """The behaviour before it."""


@frozen(kw_only=True)
class CheckIfActiveMemoryNeededCompleted(Action):
    """The agent has decided what to look up in its memory."""

    queries: tuple[str, ...] | None = None
    """The queries."""


@frozen(kw_only=True)
class ExtractActiveMemoriesCompleted(Action):
    """Memory was queried."""

    queries_and_responses: tuple[tuple[str, str], ...] | None = None
    """Each query with its response."""


@frozen(kw_only=True)
class NavigateStateMachineDynamicBehaviorOverride(Action):
    """A dynamic behaviour overrides how the agent moves through its states."""

    overriding_instructions: bool | None = None
    """Whether it replaces the instructions."""
    overriding_tool_candidates: bool | None = None
    """Whether it replaces the tools."""


@frozen(kw_only=True)
class NavigateStateMachineActionStateActionSelected(Action):
    """The next action of a state was chosen."""

    action: str | None = None
    """The action."""


@frozen(kw_only=True)
class NavigateStateMachineDecisionStateDecisionStarted(Action):
    """A decision is being made."""


@frozen(kw_only=True)
class NavigateStateMachineExitConditionSelected(Action):
    """A state is left by one of its exit conditions."""

    exit_condition: str | None = None
    """The condition."""
    next_state_name: str | None = None
    """The state that follows."""
    next_state_state_machine_version_info: VersionPair | None = None
    """The state machine of that state."""


@frozen(kw_only=True)
class NavigateStateMachineRecallStateDynamicQueriesGenerated(Action):
    """Queries to memory were generated."""

    dynamic_queries: tuple[str, ...] | None = None
    """The queries."""
    requested_information: str | None = None
    """The information that they ask for."""


@frozen(kw_only=True)
class NavigateStateMachineRecallStateStaticQueriesRetrieved(Action):
    """The queries to memory that a state defines were retrieved."""

    static_queries: tuple[str, ...] | None = None
    """The queries."""


@frozen(kw_only=True)
class NavigateStateMachineRecallStateActiveMemoryRetrieved(Action):
    """Memory has responded."""

    queries_and_responses: tuple[tuple[str, str], ...] | None = None
    """Each query with its response."""


@frozen(kw_only=True)
class NavigateStateMachineReflectionStatePromptRetrieved(Action):
    """The prompt of a reflection was retrieved."""

    prompt: str | None = None
    """The prompt."""


@frozen(kw_only=True)
class NavigateStateMachineReflectionStateReflectionGenerated(Action):
    """A reflection was generated."""

    reflection: str | None = None
    """The reflection."""


@frozen(kw_only=True)
class NavigateStateMachineAnnotationStateAnnotationRetrieved(Action):
    """The annotation of a state was retrieved."""

    annotation: str | None = None
    """The annotation."""


@frozen(kw_only=True)
class NavigateStateMachineStateTransitioned(Action):
    """The agent went from one state to another."""

    prev_state: str | None = None
    """The state that was left."""
    prev_state_state_machine_version_info: VersionPair | None = None
    """Its state machine."""
    next_state: str | None = None
    """The state that was entered."""
    next_state_state_machine_version_info: VersionPair | None = None
    """Its state machine."""


@frozen(kw_only=True)
class NavigateStateMachineToolCallStateToolOutputAvailable(Action):
    """A tool that the state designates has returned."""

    tool_id: str | None = None
    """The tool."""
    tool_version: str | None = None
    """Its version."""
    tool_output: str | None = None
    """Its result."""
    duration: float | None = None
    """Seconds that it took."""
    input_arguments: Mapping[str, Any] | None = None
    """Its arguments."""


@frozen(kw_only=True)
class DesignatedToolRetrieved(Action):
    """The tool that the state designates was retrieved."""

    tool_id: str | None = None
    """The tool."""
    tool_version: str | None = None
    """Its version."""


@frozen(kw_only=True)
class DesignatedToolCallParamsGenerated(Action):
    """The arguments of the designated tool were generated."""

    tool_id: str | None = None
    """The tool."""
    tool_version: str | None = None
    """Its version."""
    tool_call_params: Mapping[str, Any] | None = None
    """The arguments."""


@frozen(kw_only=True)
class ToolCallStarted(Action):
    """A tool was called."""

    tool_round_index: int | None = None
    """Which round of tools it belongs to."""
    tool_id: str | None = None
    """The tool."""
    tool_version: str | None = None
    """Its version."""
    input_params: Mapping[str, Any] | None = None
    """Its arguments."""


@frozen(kw_only=True)
class ToolCallEnded(Action):
    """A tool has returned."""

    tool_round_index: int | None = None
    """Which round of tools it belongs to."""
    tool_id: str | None = None
    """The tool."""
    tool_version: str | None = None
    """Its version."""
    input_parameters: Mapping[str, Any] | None = None
    """Its arguments."""
    result: str | None = None
    """Its result."""
    duration: float | None = None
    """Seconds that it took."""


@frozen(kw_only=True)
class ActionTooLong(Action):
    """An action takes long; `filler` can be said meanwhile."""

    filler: str | None = None
    """Text, or base64 of mono 16-bit WAV at 16 kHz."""
    previously_started_event: Any = None
    """The event that began the long action."""


@frozen(kw_only=True)
class EngageUserDynamicBehaviorOverride(Action):
    """A dynamic behaviour overrides how the agent replies."""

    overriding_instructions: bool | None = None
    """Whether it replaces the instructions."""
    overriding_tool_candidates: bool | None = None
    """Whether it replaces the tools."""


@frozen(kw_only=True)
class EngageUserMessageFragmentGenerated(Action):
    """A fragment of the reply was generated; `new-message` events repeat it."""

    index: int | None = None
    """Position of the fragment."""
    fragment: str | None = None
    """The text."""
    is_final: bool | None = None
    """Whether it is the last."""


def _name(kind: type[Action]) -> str:
    """Return the service's name for a class: its own name, in lower case, with hyphens."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


# By what is exported, not by subclasses: attrs makes each slotted class twice, and the first may not be collected yet.
_CLASSES: Final[tuple[type[Action], ...]] = tuple(
    globals()[name] for name in __all__ if name not in {"Action", "UnknownAction"}
)
BY_TYPE: Final[Mapping[str, type[Action]]] = {_name(kind): kind for kind in _CLASSES}
"""The class for each type of action."""
