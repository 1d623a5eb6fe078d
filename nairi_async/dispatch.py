"""One prompt on its way to the service: sent once, whatever is cancelled or fails meanwhile (design section 6)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from attrs import evolve

from nairi_async.errors import OutcomeUnknownError
from nairi_async.transport.address import path
from nairi_async.transport.exchange import Request
from nairi_async.wire import decode_turn, encode_continue, encode_start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async.models import Turn
    from nairi_async.transport.caller import Caller


class Dispatch:
    """A prompt that becomes a turn at most once: `send` may be called again after it was cancelled or has failed."""

    def __init__(self, caller: Caller, request: Request, agent_id: str | None) -> None:
        self._caller = caller
        self._request = request
        self._agent_id = agent_id
        self._turn: Turn | None = None
        self.is_in_doubt = False
        """Whether the prompt left and its answer did not come back."""

    @classmethod
    def start(
        cls, caller: Caller, agent_id: str, prompt: str, *, ask_mode: bool, attachment_ids: Sequence[str]
    ) -> Dispatch:
        """The first prompt of a new conversation."""
        body = encode_start(agent_id, prompt, ask_mode=ask_mode, attachment_ids=attachment_ids)
        location = path("conversations", "start")
        return cls(caller, Request(method="POST", path=location, body=body, repeatable=False), agent_id)

    @classmethod
    def continue_(
        cls, caller: Caller, job_id: str, prompt: str, *, attachment_ids: Sequence[str], agent_id: str | None = None
    ) -> Dispatch:
        """A further prompt of a conversation."""
        body = encode_continue(prompt, attachment_ids=attachment_ids)
        location = path("conversations", job_id, "continue")
        return cls(caller, Request(method="POST", path=location, body=body, repeatable=False), agent_id)

    @property
    def is_unsent(self) -> bool:
        """Whether the prompt provably does not run."""
        return self._turn is None and not self.is_in_doubt

    async def send(self) -> Turn:
        """The turn; sends the prompt unless it was sent before.

        Raises:
            OutcomeUnknownError: it was sent, and whether it runs is not known; also at every later call.
            NairiError: it was not sent, or was refused; it may be sent again.
        """
        if self._turn is not None:
            return self._turn
        if self.is_in_doubt:
            raise OutcomeUnknownError(
                "the prompt was sent before, and whether it runs is not known", self._request.method, self._request.path
            )
        try:
            turn = await self._caller.call(self._request, decode_turn)
        except OutcomeUnknownError:
            self.is_in_doubt = True
            raise
        except asyncio.CancelledError:
            self.is_in_doubt = self._request.handed_over
            raise
        self._turn = evolve(turn, agent_id=self._agent_id)
        return self._turn
