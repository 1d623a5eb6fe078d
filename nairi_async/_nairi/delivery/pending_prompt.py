"""One prompt on its way to the service: sent once, whatever is cancelled or fails meanwhile (design section 6)."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from attrs import evolve

from nairi_async._core.address import path
from nairi_async._core.request import Request
from nairi_async._nairi.delivery.claims import PromptFingerprint
from nairi_async._nairi.delivery.reconciler import PATIENCE, SearchWindow
from nairi_async._nairi.polling.context import TurnOrigin
from nairi_async._nairi.wire import decode_turn, encode_continue, encode_start
from nairi_async.errors import InvalidArgumentError, NotFoundError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import NoReturn

    from nairi_async._nairi.delivery.claims import Claim
    from nairi_async._nairi.delivery.reconciler import Reconciler
    from nairi_async._nairi.polling.context import PollingContext
    from nairi_async.models import Turn
    from nairi_async.typing import OnUnknown


class PendingPrompt:
    """A prompt that becomes a turn at most once: `send` may be called again after it was cancelled or has failed."""

    def __init__(
        self,
        context: PollingContext,
        reconciler: Reconciler,
        request: Request,
        agent_id: str | None,
        words: PromptFingerprint,
    ) -> None:
        self._context = context
        self._reconciler = reconciler
        self._request = request
        self._agent_id = agent_id
        self._words = words
        self._sent: SearchWindow | None = None
        self.explain: Callable[[str, NotFoundError], Awaitable[NoReturn]] | None = None
        """Raises a 404 to a new conversation, which can only mean its agent, in a more helpful form."""
        self.note: Callable[[Turn], object] | None = None
        """Called with the turn once there is one."""
        self._turn: Turn | None = None
        self.is_in_doubt = False
        """Whether the prompt left and its answer did not come back."""

    @classmethod
    def start(
        cls,
        context: PollingContext,
        reconciler: Reconciler,
        agent_id: str,
        prompt: str,
        *,
        ask_mode: bool,
        attachment_ids: Sequence[str],
    ) -> PendingPrompt:
        """The first prompt of a new conversation."""
        body = encode_start(agent_id, prompt, ask_mode=ask_mode, attachment_ids=attachment_ids)
        location = path("conversations", "start")
        request = Request(method="POST", path=location, body=body, idempotent=False, observe_date=True)
        return cls(context, reconciler, request, agent_id, PromptFingerprint.of(None, prompt, attachment_ids))

    @classmethod
    def continue_(
        cls,
        context: PollingContext,
        reconciler: Reconciler,
        job_id: str,
        prompt: str,
        *,
        attachment_ids: Sequence[str],
        agent_id: str | None = None,
    ) -> PendingPrompt:
        """A further prompt of a conversation."""
        body = encode_continue(prompt, attachment_ids=attachment_ids)
        location = path("conversations", job_id, "continue")
        request = Request(method="POST", path=location, body=body, idempotent=False, observe_date=True)
        return cls(context, reconciler, request, agent_id, PromptFingerprint.of(job_id, prompt, attachment_ids))

    @property
    def is_unsent(self) -> bool:
        """Whether the prompt provably does not run."""
        return self._turn is None and not self.is_in_doubt

    async def send(self, *, on_unknown: OnUnknown = "raise", deadline: float = math.inf) -> Turn:
        """The turn; sends the prompt unless it was sent before, and tries no more after the deadline.

        Raises:
            OutcomeUnknownError: it was sent, and whether it runs is not known; also at every later call, unless
                reconciling finds it then.
            NairiError: it was not sent, or was refused; it may be sent again.
        """
        if self._turn is not None:
            return self._turn
        with self._reconciler.claims.open(self._words, self._request) as claim:
            if not self.is_in_doubt:
                try:
                    return await self._send(claim, deadline)
                except OutcomeUnknownError as error:
                    unknown = error
            else:
                told = "the prompt was sent before, and whether it runs is not known"
                unknown = OutcomeUnknownError(told, self._request.method, self._request.path)
            if on_unknown == "raise" or self._sent is None:
                raise unknown
            self._reconciler.claims.doubt(claim)
            turn = await self._reconciler.settle(claim, self._sent, unknown, deadline=deadline)
            return self._begun(turn, self._sent.started_at)

    async def _send(self, claim: Claim, deadline: float) -> Turn:
        clock = self._context.clock
        started_at = clock.monotonic()
        job_id = self._words.job_id
        before = None if job_id is None else self._context.latest_prompt(job_id)
        try:
            turn = await self._context.executor.call(self._request, decode_turn, deadline=deadline)
        except OutcomeUnknownError:
            self.is_in_doubt = True
            raise
        except asyncio.CancelledError:
            self.is_in_doubt = self._request.write_started
            raise
        except NotFoundError as error:
            unknown = error
        else:
            self._reconciler.claims.settle(claim, turn)
            return self._begun(turn, started_at)
        finally:
            self._sent = SearchWindow(self._agent_id, started_at, clock.monotonic() + PATIENCE, before)
        # Outside of the handlers above: cancelled from here on, the prompt is still known not to run.
        if self.explain is not None and self._agent_id is not None:
            await self.explain(self._agent_id, unknown)
        raise unknown

    def _begun(self, turn: Turn, moment: float) -> Turn:
        self.is_in_doubt = False
        self._turn = evolve(turn, agent_id=self._agent_id or self._context.agent_of_job(turn.job_id))
        self._context.record_origin(
            self._turn, TurnOrigin(moment, self._request.answered_at, self._words.job_id is None)
        )
        if self.note is not None:
            self.note(self._turn)
        return self._turn


def checked_on_unknown(value: object) -> OnUnknown:
    """One of the two ways."""
    if value == "raise":
        return "raise"
    if value == "reconcile":
        return "reconcile"
    raise InvalidArgumentError(f"on_unknown is {value!r}: 'raise' or 'reconcile' is needed")
