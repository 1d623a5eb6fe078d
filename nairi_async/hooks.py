"""Watching a session run: frozen records of what it did, for functions of yours and for the log.

    from nairi_async import NairiSession
    from nairi_async.hooks import Event, TurnEnded


    def tell(event: Event) -> None:
        match event:
            case TurnEnded(status="failed"):
                print(event)


    session = NairiSession(hooks=[tell])

A hook is an ordinary function, called on the event loop in the task that did the work, so it has to be quick. What it
raises is logged once and disturbs nothing. No record holds the key, a prompt, or anything that an agent said.

`str(event)` is what the log says. The loggers, each below `nairi_async`:

* `nairi_async.requests`: each request (DEBUG), each retry (INFO).
* `nairi_async.polling`: when each conversation is polled next, what a read brought, the end of each turn (DEBUG); a
  listing that is trusted from now on (INFO) or not used any more (WARNING).
* `nairi_async.hooks`: the first time that a hook raises (ERROR).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Literal

from attrs import frozen

from nairi_async.errors import ConfigurationError, NairiError
from nairi_async.models import Turn, Usage

__all__ = ["Event", "FeedChanged", "Hook", "PollPlanned", "RequestDone", "RetryPlanned", "TurnEnded"]

log = logging.getLogger("nairi_async.hooks")

News = Literal["ends of turns", "messages", "anything"]
"""What a listing can announce."""


@frozen(kw_only=True)
class RequestDone:
    """One attempt at one request is over: answered, or failed without an answer. A cancelled one is not told."""

    method: str
    """HTTP method."""
    path: str
    """Encoded path below the base URL."""
    attempt: int
    """Which attempt at this request it was, from 1."""
    seconds: float
    """How long it took, without the wait for a free connection."""
    status: int | None
    """HTTP status; `None` without an answer."""
    bytes_received: int
    """Size of the answer's body, decompressed; 0 where it was written elsewhere as it came, as a download is."""
    error: NairiError | None
    """Why there is no answer."""

    def __str__(self) -> str:
        told = self.error if self.error is not None else f"{self.status}, {self.bytes_received} bytes"
        return f"{self.method} {self.path}: {told} in {self.seconds:.3f} s, attempt {self.attempt}"


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
    """What it failed with."""
    wait: float
    """Seconds until the next attempt."""

    def __str__(self) -> str:
        return f"{self.error}; attempt {self.attempt}, next in {self.wait:.2f} s"


@frozen(kw_only=True)
class PollPlanned:
    """A watcher has decided when it looks at its conversation next."""

    job_id: str
    """The conversation."""
    agent_id: str | None
    """Its agent, where the session knows it."""
    wait: float
    """Seconds until the look; where a listing announces news, until the look that is made without any."""
    is_announced: bool
    """Whether it waits for the agent's listing to announce news."""

    def __str__(self) -> str:
        until = "when its listing announces news, or" if self.is_announced else "next look"
        return f"conversation {self.job_id} of agent {self.agent_id or 'unknown'}: {until} in {self.wait:.2f} s"


@frozen(kw_only=True)
class FeedChanged:
    """An agent's listing is used to announce news from now on, or is not any more."""

    agent_id: str
    """The agent."""
    news: News
    """The kind of news that it is about: `ends of turns`, `messages`, or `anything`."""
    is_used: bool
    """Whether it stands for looks from now on."""
    reason: str
    """Why it is not used any more; empty if it is."""

    def __str__(self) -> str:
        if self.is_used:
            return f"the listing of agent {self.agent_id} is trusted to announce {self.news}"
        return f"the listing of agent {self.agent_id} no longer announces {self.news}: {self.reason}"


@frozen(kw_only=True)
class TurnEnded:
    """A turn was found to have ended, and whoever waited for it has what it brought. Told once for each turn."""

    turn: Turn
    """The turn; where a whole conversation is watched, the newest."""
    status: str
    """`completed` or `failed`."""
    seconds: float
    """From the sending of its prompt, or from the beginning of the wait where another session sent it, to when the end
    was found."""
    ended_at: float
    """When the end was found, in seconds since the Unix epoch."""
    discovery_delay: float
    """About how many seconds before that it ended: half of the time since the look before."""
    polls: int
    """Looks that the wait took, some of them shared with other watchers."""
    usage: Usage | None
    """What it cost, as its messages say; `None` where they do not, where only the end was waited for (`wait`), and
    where a whole conversation is watched."""

    def __str__(self) -> str:
        return (
            f"turn {self.turn.message_id} of {self.turn.job_id}: {self.status} after {self.seconds:.1f} s, "
            f"found about {self.discovery_delay:.1f} s late with {self.polls} looks"
        )


Event = RequestDone | RetryPlanned | PollPlanned | FeedChanged | TurnEnded
"""Everything that a hook is called with; later versions may add kinds."""
Hook = Callable[[Event], object]
"""A function that is called with each event; what it returns is ignored."""


class Hooks:
    """The hooks of one session, and the log beside them."""

    __slots__ = ("_faulty", "_hooks")

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        if not isinstance(hooks, Iterable):
            raise ConfigurationError(f"hooks is a list of functions, not {type(hooks).__name__}")
        self._hooks = tuple(hooks)
        self._faulty: set[Hook] = set()
        for hook in self._hooks:
            if not callable(hook):
                raise ConfigurationError(f"a hook is a function of one event, not {type(hook).__name__}")
            if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__):
                raise ConfigurationError("a hook is an ordinary function; nobody would wait for a coroutine")

    def listens(self, logger: logging.Logger) -> bool:
        """Whether a record at DEBUG is worth making."""
        return bool(self._hooks) or logger.isEnabledFor(logging.DEBUG)

    def emit(self, logger: logging.Logger, event: Event, level: int = logging.DEBUG) -> None:
        """Log an event, and call every hook with it."""
        logger.log(level, "%s", event, stacklevel=2)
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:
                if hook not in self._faulty:
                    self._faulty.add(hook)
                    log.exception("a hook raised; it is called again, but this is not logged again")
