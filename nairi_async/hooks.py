"""Events of a running session: frozen records for your own functions and for the log.

    from nairi_async import NairiSession
    from nairi_async.hooks import Event, TurnEnded


    def print_failures(event: Event) -> None:
        if isinstance(event, TurnEnded) and event.status == "failed":
            print(event)


    session = NairiSession(hooks=[print_failures])

A hook is an ordinary function. It is called on the event loop, in the task that did the work, so it has to be quick.
What it raises is logged once and has no other effect. No event holds the key, a prompt, or a text of an agent.

A hook may also be an object with `__call__` and the methods `session_opened(session)` and `session_closed(session)`,
which are called when a session that it was given to is opened and closed: see `SessionHook`.

The log has `str(event)`. The loggers, each below `nairi_async`:

* `nairi_async.requests`: each request (DEBUG), each retry (INFO).
* `nairi_async.polling`: when each conversation is polled next, what a poll found, the end of each turn (DEBUG); a
  listing that is used from now on (INFO) or not used any more (WARNING).
* `nairi_async.prompts`: the start of each turn (DEBUG).
* `nairi_async.bots`: each prompt that waits behind others of its chat (DEBUG).
* `nairi_async.batch`: how far a batch is, with each outcome (DEBUG).
* `nairi_async.hooks`: the first time that a hook raises (ERROR).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from nairi_async._core.records import frozen
from nairi_async.errors import NairiError
from nairi_async.models import Turn, Usage

__all__ = [
    "BatchProgress",
    "ChatQueued",
    "Event",
    "FeedChanged",
    "Hook",
    "PollPlanned",
    "RequestDone",
    "RetryPlanned",
    "SessionHook",
    "TurnEnded",
    "TurnStarted",
]

News = Literal["ends of turns", "messages", "anything"]
"""What a listing can announce."""


@frozen(kw_only=True)
class RequestDone:
    """One attempt at a request has ended, with a response or without. A cancelled attempt emits no event."""

    method: str
    """HTTP method."""
    path: str
    """Encoded path below the base URL."""
    route: str
    """Template of the path, such as `/messages/{message_id}`: one of few values, so that it can be a metric's label."""
    attempt: int
    """Which attempt at this request it was, from 1."""
    seconds: float
    """Seconds that it took, without the wait for a free connection."""
    status: int | None
    """HTTP status; `None` without a response."""
    bytes_received: int
    """Bytes of the response body, decompressed; 0 for a body that was not collected, such as a download or stream."""
    error: NairiError | None
    """Why there is no response; `None` if there is one."""
    host: str = ""
    """Host of the service."""
    port: int | None = None
    """Port of the service."""

    def __str__(self) -> str:
        result = self.error if self.error is not None else f"{self.status}, {self.bytes_received} bytes"
        return f"{self.method} {self.path}: {result} in {self.seconds:.3f} s, attempt {self.attempt}"


@frozen(kw_only=True)
class RetryPlanned:
    """An attempt failed, and the same request will be sent again."""

    method: str
    """HTTP method."""
    path: str
    """Encoded path below the base URL."""
    attempt: int
    """The attempt that failed, from 1."""
    error: NairiError
    """Why it failed."""
    wait: float
    """Seconds until the next attempt."""
    route: str = ""
    """Template of the path, as in `RequestDone`."""

    def __str__(self) -> str:
        return f"{self.error}; attempt {self.attempt}, next in {self.wait:.2f} s"


@frozen(kw_only=True)
class PollPlanned:
    """A watcher has decided when to poll its conversation next."""

    job_id: str
    """The conversation."""
    agent_id: str | None
    """Its agent, if the session knows it."""
    wait: float
    """Seconds until the poll; if it waits for a listing to announce news, until the poll without an announcement."""
    is_announced: bool
    """Whether it waits for the agent's listing to announce news."""

    def __str__(self) -> str:
        until = "next poll when its listing announces news, or" if self.is_announced else "next poll"
        return f"conversation {self.job_id} of agent {self.agent_id or 'unknown'}: {until} in {self.wait:.2f} s"


@frozen(kw_only=True)
class FeedChanged:
    """An agent's listing is used from now on to announce news, or is not used any more."""

    agent_id: str
    """The agent."""
    news: News
    """The kind of news: `ends of turns`, `messages`, or `anything`."""
    is_used: bool
    """Whether it replaces polls from now on."""
    reason: str
    """Why it is not used any more; empty if it is used."""

    def __str__(self) -> str:
        if self.is_used:
            return f"the listing of agent {self.agent_id} is used to announce {self.news}"
        return f"the listing of agent {self.agent_id} is no longer used to announce {self.news}: {self.reason}"


@frozen(kw_only=True)
class TurnStarted:
    """The service has taken a prompt, and the turn is known. Emitted once for each turn that the session started."""

    turn: Turn
    """The turn."""
    is_first: bool
    """Whether it began its conversation."""
    is_found: bool
    """Whether the response was lost, and the turn was looked up."""

    def __str__(self) -> str:
        started = "found by looking it up" if self.is_found else "started"
        return f"turn {self.turn.message_id} of {self.turn.job_id}: {started}, agent {self.turn.agent_id or 'unknown'}"


@frozen(kw_only=True)
class ChatQueued:
    """A prompt of a bot's chat waits behind others of the same chat."""

    chat: str
    """The platform's id of the chat."""
    target: str
    """The agent or service that the chat talks to."""
    waiting: int
    """Prompts of the chat that wait now, this one included."""

    def __str__(self) -> str:
        return f"chat {self.chat}: a prompt for {self.target} waits behind others, {self.waiting} in all"


@frozen(kw_only=True)
class BatchProgress:
    """A batch hands over an outcome. The figures are those of `BatchStatus`."""

    agent_id: str
    """The agent."""
    done: int
    """Prompts that have a reply."""
    failed: int
    """Prompts that ended without a reply."""
    running: int
    """Running turns."""
    sending: int
    """Prompts being sent."""
    unsent: int
    """Prompts that were read and not sent."""
    unusable: int
    """Records that cannot be sent."""

    def __str__(self) -> str:
        return (
            f"batch of agent {self.agent_id}: {self.done} done, {self.failed} failed, {self.running} running, "
            f"{self.sending} being sent, {self.unsent} unsent, {self.unusable} unusable"
        )


@frozen(kw_only=True)
class TurnEnded:
    """The end of a turn was found, and its result was delivered. Emitted once for each turn."""

    turn: Turn
    """The turn; where a whole conversation is watched, the newest."""
    status: str
    """`completed` or `failed`."""
    seconds: float
    """Seconds from the sending of its prompt (if another session sent it: from the beginning of the wait) until the end
    was found."""
    ended_at: float
    """When the end was found, in seconds since the Unix epoch."""
    discovery_delay: float
    """Seconds before that at which it ended, as an estimate: half of the time since the poll before."""
    polls: int
    """Polls that the wait took, including those shared with other watchers."""
    usage: Usage | None
    """What it cost, as reported by its messages; `None` if they do not report it, if only the end was awaited
    (`wait`), and if a whole conversation is watched."""

    def __str__(self) -> str:
        return (
            f"turn {self.turn.message_id} of {self.turn.job_id}: {self.status} after {self.seconds:.1f} s, "
            f"found about {self.discovery_delay:.1f} s late with {self.polls} polls"
        )


Event = RequestDone | RetryPlanned | PollPlanned | FeedChanged | TurnStarted | TurnEnded | ChatQueued | BatchProgress
"""Everything that a hook is called with; later versions may add kinds."""
Hook = Callable[[Event], object]
"""A function that is called with each event; its result is ignored."""


class SessionHook(Protocol):
    """A hook that also learns which sessions are open, such as `nairi_async.otel.Metrics`."""

    def __call__(self, event: Event, /) -> object:
        """Handle an event."""

    def session_opened(self, session: object, /) -> object:
        """Handle a session that was opened; its `stats` may be read from then on."""

    def session_closed(self, session: object, /) -> object:
        """Handle a session that is being closed."""
