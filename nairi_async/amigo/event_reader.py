"""Reading the body of a stream: pieces of bytes to events, and how the interaction ended."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nairi_async._core.json_body import excerpt
from nairi_async.amigo.interaction import InteractionEnd, LineSplitter
from nairi_async.amigo.wire import decode_event
from nairi_async.errors import (
    DecodeError,
    InteractionUnknownError,
    InteractionVoidError,
    NairiError,
    RequestTimeoutError,
    UnreadableOutcomeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async._core.request import Request
    from nairi_async.amigo.events import Event
    from nairi_async.amigo.interaction import Interaction
    from nairi_async.clock import Clock

log: logging.Logger = logging.getLogger("nairi_async.amigo")


class EventReader:
    """Makes events of a body, and notes what they say of their interaction."""

    def __init__(
        self, interaction: Interaction, quote: Callable[[str], str], clock: Clock, idle_timeout: float
    ) -> None:
        self.interaction = interaction
        """What the events have said so far."""
        self.is_ended: bool = False
        """Whether no other event comes."""
        self._quote = quote
        self._lines = LineSplitter()
        self._clock = clock
        self._idle_timeout = idle_timeout
        # When data came last, by the clock; blank lines are none.
        self._data_at: float | None = None

    def begin(self) -> None:
        """Note that the first piece is waited for from now on. Harmless when repeated."""
        if self._data_at is None:
            self._data_at = self._clock.monotonic()

    def take(self, piece: bytes, cause: NairiError | None, request: Request) -> tuple[list[Event], NairiError | None]:
        """Return the events of the next piece of the body; at its end also why the interaction failed.

        The piece is empty at the end of the body, and after a failure to read it, which is the cause.
        """
        lines: list[bytes] = []
        if piece:
            try:
                if piece.isspace():
                    self._take_blank(request)
                else:
                    self._data_at = self._clock.monotonic()
                lines = self._lines.feed(piece)
            except NairiError as error:
                piece, cause = b"", error
        elif cause is None:
            lines = self._lines.end()
        if cause is not None:
            # The last event may have come whole, though not its newline.
            lines = [line for line in self._lines.end() if decode_event(line).raw]
        read = list(map(decode_event, lines))
        self.interaction.observe(read)
        if piece:
            return read, None
        self.is_ended = True
        if cause is not None:
            log.info("a stream ended as %s: %s", self.interaction.end.value, cause)
        return read, self._failure(request, cause)

    def _take_blank(self, request: Request) -> None:
        """Count as broken a stream of nothing but blank lines for the idle timeout."""
        if self._data_at is not None and self._clock.monotonic() - self._data_at >= self._idle_timeout:
            reason = f"no data but blank lines came for {self._idle_timeout:.3g} s"
            raise RequestTimeoutError(reason, request.method, request.path, sent=True)

    def _failure(self, request: Request, cause: NairiError | None) -> NairiError | None:
        end = self.interaction.end
        if end is InteractionEnd.VOID:
            return self.void()
        return self._broken(request, cause) if end is InteractionEnd.UNKNOWN else None

    def _broken(self, request: Request, cause: NairiError | None) -> NairiError:
        where, unknown = (request.method, request.path), request.unknown_outcome_message
        failure: NairiError
        if isinstance(cause, DecodeError) or (not self.interaction.understood and self.interaction.excerpt):
            reason = cause.message if isinstance(cause, DecodeError) else "the response is not a stream of events"
            beginning = self._quote(self.interaction.excerpt)
            failure = UnreadableOutcomeError(f"{reason} ({unknown})", *where, excerpt=beginning)
        else:
            reason = getattr(cause, "message", "the stream ended before the interaction was complete")
            failure = InteractionUnknownError(f"{reason} ({unknown})", *where)
        failure.__cause__ = cause
        return failure

    def void(self) -> InteractionVoidError:
        """Return the error of an interaction of which the service kept nothing."""
        error = self.interaction.error
        assert error is not None  # noqa: S101 - that is what makes it void
        description = excerpt((error.error_description or "no description").encode("utf-8", "replace"))
        return InteractionVoidError(self._quote(description), error.http_error_code)
