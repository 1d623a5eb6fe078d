"""Learning of a shutdown from the process's signals, without taking them from the server."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, Final

from nairi_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType
    from typing import Any

SHUTDOWN_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""The signals that make a server shut down: of a deploy, and of Ctrl-C."""


def checked_signals(value: object) -> tuple[signal.Signals, ...]:
    """Return the signals of a setting; no number that is none, and not the name of one."""
    try:
        return tuple(signal.Signals(one) for one in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"signals must be signals, such as (signal.SIGTERM,), not {value!r}") from error


def listen_for_signals(
    signals: Iterable[signal.Signals], on_shutdown: Callable[[], object]
) -> list[Callable[[], object]]:
    """Call `on_shutdown` on the running loop when a signal comes, and then the handler that was installed before.

    Does nothing outside the main thread, where Python allows no handlers.

    Returns:
        Functions that restore the former handlers, to be called from the last to the first.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    loop = asyncio.get_running_loop()
    return [_install(number, loop, on_shutdown) for number in signals]


def _install(
    number: signal.Signals, loop: asyncio.AbstractEventLoop, on_shutdown: Callable[[], object]
) -> Callable[[], object]:
    before: Any = signal.getsignal(number)

    def handle(received: int, frame: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(on_shutdown)
        if callable(before):
            before(received, frame)
        elif before is signal.SIG_DFL:
            signal.signal(received, signal.SIG_DFL)
            signal.raise_signal(received)

    def restore() -> None:
        # A handler that was installed since then stays.
        if signal.getsignal(number) is handle:
            signal.signal(number, before)

    signal.signal(number, handle)
    return restore
