"""What calls the hooks of a session. The events are imported where one is made: few programs hook or log any."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from nairi_async.errors import ConfigurationError

if TYPE_CHECKING:
    from nairi_async.hooks import Event, Hook

log: logging.Logger = logging.getLogger("nairi_async.hooks")


class Hooks:
    """The hooks of one session, together with its log."""

    __slots__ = ("_faulty", "_hooks")

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        if not isinstance(hooks, Iterable):
            raise ConfigurationError(f"hooks must be a list of functions, not {type(hooks).__name__}")
        self._hooks = tuple(hooks)
        self._faulty: set[Hook] = set()
        for hook in self._hooks:
            if not callable(hook):
                raise ConfigurationError(f"a hook must be a function of one event, not {type(hook).__name__}")
            if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__):
                raise ConfigurationError(
                    "a hook must be an ordinary function; a coroutine function would never be awaited"
                )

    def listens(self, logger: logging.Logger) -> bool:
        """Return whether an event at DEBUG would reach a hook or the log."""
        return bool(self._hooks) or logger.isEnabledFor(logging.DEBUG)

    def emit(self, logger: logging.Logger, event: Event, level: int = logging.DEBUG) -> None:
        """Log an event, and call every hook with it."""
        logger.log(level, "%s", event, stacklevel=2)
        for hook in self._hooks:
            self._call(hook, hook, event)

    def opened(self, session: object) -> None:
        """Call the hooks that want to know of an opened session."""
        self._call_method("session_opened", session)

    def closed(self, session: object) -> None:
        """Call the hooks that want to know of a closed session."""
        self._call_method("session_closed", session)

    def _call_method(self, name: str, session: object) -> None:
        for hook in self._hooks:
            method = getattr(hook, name, None)
            if callable(method):
                self._call(hook, method, session)

    def _call(self, hook: Hook, function: Callable[..., object], argument: object) -> None:
        try:
            function(argument)
        except Exception:
            if hook not in self._faulty:
                self._faulty.add(hook)
                log.exception("a hook raised; it is called again, but this is not logged again")
