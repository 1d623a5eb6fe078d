"""What an agent does before it answers: the actions of `current-agent-action` events, typed (api: agent actions).

Field names are the service's own. The set is open and has changed over time: an action of a type that is not listed
here is an `UnknownAction`, and a field that is absent, or not of the documented form, is `None`. `raw` holds what came.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen

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

VersionPair = tuple[str, int]
"""An id and a version."""


@frozen(kw_only=True)
class Action:
    """What all actions have."""

    type: str
    """The service's word for it."""
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)
    """The object as it came, unknown fields included."""


@frozen(kw_only=True)
class UnknownAction(Action):
    """An action of a type that this library does not know."""


@frozen(kw_only=True)
class SelectDynamicBehaviorVectorGenerated(Action):
    """The search for a fitting dynamic behaviour has begun."""


@frozen(kw_only=True)
class SelectDynamicBehaviorRelevanceRetrievalCompleted(Action):
    """Dynamic behaviours that may fit were found."""


@frozen(kw_only=True)
class SelectDynamicBehaviorCompleted(Action):
    """A dynamic behaviour was chosen, or none."""

    selected_dynamic_behavior_set_version_info: VersionPair | None = None
    """The chosen one."""
    previous_selected_dynamic_behavior_set_version_info: VersionPair | None = None
    """The one before."""


@frozen(kw_only=True)
class CheckIfActiveMemoryNeededCompleted(Action):
    """It is decided what to look up in memory."""

    queries: tuple[str, ...] | None = None
    """What will be looked up."""


@frozen(kw_only=True)
class ExtractActiveMemoriesCompleted(Action):
    """Memory was asked."""

    queries_and_responses: tuple[tuple[str, str], ...] | None = None
    """Each question and what memory said."""


@frozen(kw_only=True)
class NavigateStateMachineDynamicBehaviorOverride(Action):
    """A dynamic behaviour changes where the agent goes."""

    overriding_instructions: bool | None = None
    """Whether it replaces the instructions."""
    overriding_tool_candidates: bool | None = None
    """Whether it replaces the tools."""


@frozen(kw_only=True)
class NavigateStateMachineActionStateActionSelected(Action):
    """What to do next was chosen."""

    action: str | None = None
    """What to do."""


@frozen(kw_only=True)
class NavigateStateMachineDecisionStateDecisionStarted(Action):
    """A decision is being made."""


@frozen(kw_only=True)
class NavigateStateMachineExitConditionSelected(Action):
    """The way out of a state was chosen."""

    exit_condition: str | None = None
    """The condition that holds."""
    next_state_name: str | None = None
    """Where it leads."""
    next_state_state_machine_version_info: VersionPair | None = None
    """The state machine of that state."""


@frozen(kw_only=True)
class NavigateStateMachineRecallStateDynamicQueriesGenerated(Action):
    """Questions to memory were made up."""

    dynamic_queries: tuple[str, ...] | None = None
    """The questions."""
    requested_information: str | None = None
    """What they are to find out."""


@frozen(kw_only=True)
class NavigateStateMachineRecallStateStaticQueriesRetrieved(Action):
    """Prepared questions to memory were fetched."""

    static_queries: tuple[str, ...] | None = None
    """The questions."""


@frozen(kw_only=True)
class NavigateStateMachineRecallStateActiveMemoryRetrieved(Action):
    """Memory has answered."""

    queries_and_responses: tuple[tuple[str, str], ...] | None = None
    """Each question and what memory said."""


@frozen(kw_only=True)
class NavigateStateMachineReflectionStatePromptRetrieved(Action):
    """There is something to reflect on."""

    prompt: str | None = None
    """What to reflect on."""


@frozen(kw_only=True)
class NavigateStateMachineReflectionStateReflectionGenerated(Action):
    """The agent has reflected."""

    reflection: str | None = None
    """What it thought."""


@frozen(kw_only=True)
class NavigateStateMachineAnnotationStateAnnotationRetrieved(Action):
    """A prepared remark was fetched."""

    annotation: str | None = None
    """The remark."""


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
    """A tool that the state prescribes has answered."""

    tool_id: str | None = None
    """The tool."""
    tool_version: str | None = None
    """Its version."""
    tool_output: str | None = None
    """What it answered."""
    duration: float | None = None
    """Seconds that it took."""
    input_arguments: Mapping[str, Any] | None = None
    """What it was given."""


@frozen(kw_only=True)
class DesignatedToolRetrieved(Action):
    """The tool that the state prescribes was found."""

    tool_id: str | None = None
    """The tool."""
    tool_version: str | None = None
    """Its version."""


@frozen(kw_only=True)
class DesignatedToolCallParamsGenerated(Action):
    """What to give to that tool was made up."""

    tool_id: str | None = None
    """The tool."""
    tool_version: str | None = None
    """Its version."""
    tool_call_params: Mapping[str, Any] | None = None
    """What it will be given."""


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
    """What it was given."""


@frozen(kw_only=True)
class ToolCallEnded(Action):
    """A tool has answered."""

    tool_round_index: int | None = None
    """Which round of tools it belongs to."""
    tool_id: str | None = None
    """The tool."""
    tool_version: str | None = None
    """Its version."""
    input_parameters: Mapping[str, Any] | None = None
    """What it was given."""
    result: str | None = None
    """What it answered."""
    duration: float | None = None
    """Seconds that it took."""


@frozen(kw_only=True)
class ActionTooLong(Action):
    """It takes long, so here is something to say meanwhile."""

    filler: str | None = None
    """Text, or base64 of mono 16-bit WAV at 16 kHz."""
    previously_started_event: Any = None
    """What takes long."""


@frozen(kw_only=True)
class EngageUserDynamicBehaviorOverride(Action):
    """A dynamic behaviour changes how the agent answers."""

    overriding_instructions: bool | None = None
    """Whether it replaces the instructions."""
    overriding_tool_candidates: bool | None = None
    """Whether it replaces the tools."""


@frozen(kw_only=True)
class EngageUserMessageFragmentGenerated(Action):
    """A fragment of the reply was made; `new-message` events repeat it."""

    index: int | None = None
    """Its place."""
    fragment: str | None = None
    """The text."""
    is_final: bool | None = None
    """Whether it is the last."""


def _word(kind: type[Action]) -> str:
    """The service's word for a class: its name, in lower case, with hyphens."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


BY_TYPE: Final[Mapping[str, type[Action]]] = {
    _word(kind): kind for kind in Action.__subclasses__() if kind is not UnknownAction
}
"""The class for each type of action."""
