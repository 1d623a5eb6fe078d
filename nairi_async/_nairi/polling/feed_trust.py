"""Whether the changes that an agent's listing announces can replace polls. Pure: no clock, no I/O.

It is not documented what moves a job's `updated_at`, nor how fresh the listing is. So the listing is tested while the
session works: it must have announced what polls found by themselves, and cost less than the polls that it saves.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async.models import ConversationSummary

# Seconds that the service's times may be rounded by.
_ROUNDING: Final = 0.01
# Seconds after the sending of a prompt within which a change is the prompt's own, and not the end of a very short turn.
_SURE: Final = 0.3
# The same as a share of the shortest of the agent's last turns.
_SURE_SHARE: Final = 0.5
# The same where a poll has shown when the service received the prompt.
_SAME: Final = 0.02
# Seconds that a poll's response may be behind: what was announced so long before may still be news to it.
_STALE: Final = 1.0
# A listing is trusted after it has announced this many discoveries; four times as many each time that it was trusted
# and did not announce one, up to a limit.
_PROOFS: Final = 3
_MORE_PROOFS: Final = 4
_MOST_PROOFS: Final = 48
# Requests with a trusted listing must stay below this share of what the polls that it saves would have cost.
_WORTH: Final = 0.8
# Polls saved, by estimate, and readings made, before the worth is judged, and judged again.
_SAMPLE: Final = 200.0
_READINGS: Final = 10
# Conversations of an agent that poll by themselves while its listing is on trial, where there are at least twice as
# many: enough to find the first news as soon as all would, and few enough to cost little.
PANEL: Final = 48
# How long the others wait for a listing on trial, in seconds.
_TRIAL_PATIENCE: Final = 26.5
# Pages that are charged at most to a kind of news that no watcher has awaited meanwhile.
_MOST_PAGES: Final = 100.0
# Seconds after which a listing that was switched off is tried anew; they double each time.
_FIRST_BACKOFF: Final = 120.0
_LONGEST_BACKOFF: Final = 3600.0
# Seconds for which a listing that could not be read is left alone; they double each time, so many times. In the end one
# request a minute asks whether it can be read again.
_FIRST_SUSPENSION: Final = 4.0
_MOST_DOUBLINGS: Final = 4
# Polls of a watcher's own after an announced one that shows no end, and how many such series are tried before the share
# of them that found an end decides whether they are worth their requests.
_FOLLOW_UPS: Final = 3
_FOLLOW_UPS_TRIED: Final = 50
_GAP_SHARE: Final = 0.02
# Ends whose announcement is compared with the time that the service gives them; their median decides.
_COMPARED: Final = 9


class TrustState(Enum):
    """What a listing may be used for."""

    ON_TRIAL = "on trial"
    TRUSTED = "trusted"
    OFF = "off"


class FeedTrust:
    """The trust in a listing for one kind of news."""

    __slots__ = (
        "_backoff",
        "_cost",
        "_doubts",
        "_gaps",
        "_lateness",
        "_pages",
        "_proofs",
        "_proofs_needed",
        "_readings",
        "_saved",
        "_unended",
        "reason",
        "retry_at",
        "state",
    )

    def __init__(self, state: TrustState = TrustState.ON_TRIAL) -> None:
        self.state: TrustState = state
        self.reason: str = ""
        """Why it was last switched off; empty if it never was."""
        self.retry_at: float = math.inf
        """When it is tried anew after it was switched off, by the session's clock."""
        self._backoff = _FIRST_BACKOFF
        self._pages = 0.0
        self._proofs = 0
        self._proofs_needed = _PROOFS
        self._cost = 0.0
        self._saved = 0.0
        self._readings = 0
        self._unended = 0.0
        self._gaps = 0.0
        self._doubts: list[tuple[WatchedJob, float, float]] = []
        self._lateness: deque[float] = deque(maxlen=_COMPARED)

    def observe_discovery(self, job: WatchedJob, alive: float, found: float) -> None:
        """Take in that a poll at `found` has found news that was not there at `alive`, both by the session's clock."""
        if self.state is TrustState.OFF:
            return
        if not self._was_announced(job, alive):
            self._doubts.append((job, alive, found))

    def observe_reading(self, started_at: float, grace: float) -> None:
        """Take in that the listing was read to its end, beginning at `started_at`.

        What polls found more than `grace` seconds before must be in it.
        """
        pending = []
        for job, alive, found in self._doubts:
            # Where the newest row is a later prompt of this session, it hides whether the change was announced.
            is_hidden = job.is_only_prompt and job.moved_at > alive
            if is_hidden or self._was_announced(job, alive):
                continue
            if started_at > found + grace:
                if self.state is TrustState.TRUSTED:
                    self._proofs_needed = min(_MOST_PROOFS, _MORE_PROOFS * self._proofs_needed)
                self.switch_off("it did not announce a change", started_at)
            else:
                pending.append((job, alive, found))
        self._doubts = pending
        self._readings += 1
        if self._readings >= _READINGS and self._saved >= _SAMPLE:
            if self._cost > _WORTH * self._saved and self.state is not TrustState.OFF:
                self.switch_off("it costs more than it saves", started_at)
            self._readings = 0
            self._cost /= 2.0
            self._saved /= 2.0

    @property
    def doubted_at(self) -> float:
        """When the oldest discovery was made of which it is not known yet whether it is announced; else infinity."""
        return self._doubts[0][2] if self._doubts else math.inf

    @property
    def follow_ups(self) -> int:
        """How many polls of a watcher's own follow an announced one that shows no end.

        The end may come without an announcement, such as a status that turns a second after the reply. Where that is
        hardly ever seen, one such poll remains.
        """
        return _FOLLOW_UPS if self._unended < _FOLLOW_UPS_TRIED or self._gaps > _GAP_SHARE * self._unended else 1

    def observe_follow_up(self, *, found_end: bool) -> None:
        """Take in whether the polls after an announced one found an end that was not announced."""
        self._unended += 1.0
        self._gaps += found_end
        if self._unended > 4 * _FOLLOW_UPS_TRIED:
            self._unended /= 2.0
            self._gaps /= 2.0

    def observe_lateness(self, seconds: float, grace: float, at: float) -> None:
        """Take in that an announced end was not in a reading that began so many seconds after it: costs no request.

        Or by how many seconds a page takes longer than the poll that found the end, if that is more. Negative where
        the reading before the announcement began before the end.
        """
        self._lateness.append(seconds)
        is_late = len(self._lateness) == _COMPARED and sorted(self._lateness)[_COMPARED // 2] > grace
        if is_late and self.state is TrustState.TRUSTED:
            self.switch_off("it announces changes too late", at)

    def observe_cost(self, requests: float, saved: float) -> None:
        """Take in what a watcher's poll has cost because of the listing, and how many polls the listing has saved."""
        self._cost += requests + self._pages
        self._saved += saved
        self._pages = 0.0

    def observe_page(self) -> None:
        """Take in that a page was read; it counts once a watcher has polled that waits for this kind of news."""
        self._pages = min(_MOST_PAGES, self._pages + 1.0)

    def observe_interruption(self) -> None:
        """Take in that the listing cannot be read for now: what was found meanwhile is no evidence against it."""
        self._doubts = []

    def switch_off(self, reason: str, at: float) -> None:
        """Stop relying on the listing, until it is tried anew after a back-off."""
        self.state, self.reason = TrustState.OFF, reason
        self.retry_at = at + self._backoff
        self._backoff = min(_LONGEST_BACKOFF, 2.0 * self._backoff)

    def try_again(self, at: float) -> None:
        """Put a listing that was switched off on trial again when its back-off is over."""
        if self.state is TrustState.OFF and at >= self.retry_at:
            self.state, self.retry_at, self._doubts = TrustState.ON_TRIAL, math.inf, []
            self._proofs = self._readings = 0
            self._lateness.clear()
            self._cost = self._saved = self._pages = 0.0

    def _was_announced(self, job: WatchedJob, alive: float) -> bool:
        """Return whether the listing announced what happened after `alive`, and count it as a proof.

        A change that may have been the prompt's own proves nothing.
        """
        if not job.has_news(alive - _STALE, is_own=True):
            return False
        self._proofs += not job.is_doubtful
        is_worth_it = self._cost <= _WORTH * self._saved
        if self._proofs >= self._proofs_needed and is_worth_it and self.state is TrustState.ON_TRIAL:
            self.state = TrustState.TRUSTED
        return True


def trial_patience(jitter: float) -> float:
    """Return the seconds that a conversation outside of the panel waits for a listing on trial before it is polled.

    It is spread by `jitter` in [0, 1), and less than thirty: while the trial lasts, so late news can be found if the
    listing is wrong. The panel polls by itself, and what it finds ends the trial of a wrong listing within seconds, so
    about one conversation in `PANEL` has news before that.
    """
    return _TRIAL_PATIENCE * (0.9 + 0.2 * jitter)


def suspension(failures: int, retry_after: float | None, jitter: float) -> float:
    """Return the seconds for which a listing is not read after it could not be, and after `failures` times before that.

    At most 80, spread by `jitter` in [0, 1), so what polls by itself meanwhile does so for little more than a minute
    after the listing can be read again; longer only where the service asks for it with `retry_after`.
    """
    seconds = _FIRST_SUSPENSION * 2.0 ** min(failures, _MOST_DOUBLINGS) * (0.75 + 0.5 * jitter)
    return max(seconds, retry_after or 0.0)


class WatchedJob:
    """One watched conversation, as the listing shows it."""

    __slots__ = (
        "__weakref__",
        "_in_question",
        "called_at",
        "changed_at",
        "is_doubtful",
        "is_late",
        "is_of_panel",
        "is_only_prompt",
        "job_id",
        "missed_at",
        "moved_at",
        "prompt_came_at",
        "prompted",
    )

    def __init__(
        self,
        job_id: str,
        *,
        is_of_panel: bool = False,
        moved_at: float = -math.inf,
        prompted: tuple[float, float] | None = None,
    ) -> None:
        self.job_id: str = job_id
        self.is_of_panel: bool = is_of_panel
        """Whether its own polls test the listing while that is on trial for the first time."""
        self.moved_at: float = moved_at
        """When the last page that announced it was received, by the session's clock."""
        self.missed_at: float = -math.inf
        """When the reading before that one began, which did not announce it."""
        self.is_doubtful: bool = False
        """Whether the last change may have been the prompt itself: to follow it proves nothing about the listing."""
        self.is_only_prompt: bool = False
        """Whether the last change is the prompt itself: no news for the watcher that sent it."""
        self.is_late: bool = False
        """Whether the last change came so long after the prompt was sent that turns of the agent have ended by then."""
        self.called_at: float = -math.inf
        """When this session last had a reason of its own to poll it: it sent a prompt, or a turn before it ended."""
        self.prompted: tuple[float, float] | None = prompted
        """When its last prompt was sent and answered, by the session's clock, until that change was listed."""
        self.changed_at: float = math.inf
        """The time that the last change has in the listing."""
        self.prompt_came_at: float | None = None
        """When the service received the prompt, in its own Unix time, once a poll has shown it."""
        self._in_question = (0.0, 0.0, 0.0)

    def announce(
        self,
        row: ConversationSummary,
        at: float,
        server_time: Callable[[float], tuple[float, float]],
        shortest: float = math.inf,
        missed_at: float = -math.inf,
    ) -> None:
        """Take in that a page received at `at` has listed a change, and the reading begun at `missed_at` had not.

        `server_time` returns the bounds of the service's time at a time of the session's clock, and `shortest`
        is the length of the agent's shortest turn in seconds; infinity while no end was seen.
        """
        self.is_doubtful = self.is_only_prompt = self.is_late = False
        self.changed_at = math.inf if row.updated_at is None else row.updated_at.timestamp()
        self.moved_at, self.missed_at = at, missed_at
        if self.prompted is None or self.changed_at < server_time(self.prompted[0])[0] - _ROUNDING:
            return  # It is a change before the last prompt, whose own will still come.
        prompted, self.prompted = self.prompted, None
        # A job that is no longer active has changed by more than its prompt.
        if row.status == "active" and row.updated_at is not None:
            self._in_question = (*prompted, self.changed_at)
            self.judge(server_time, shortest)

    def judge(self, server_time: Callable[[float], tuple[float, float]], shortest: float) -> None:
        """Decide whether the last change is the prompt's own, by what is known by now of the service and the agent."""
        sent_at, answered_at, stamped = self._in_question
        if self.prompt_came_at is not None:
            since = stamped - self.prompt_came_at
            self.is_doubtful = self.is_only_prompt = -_ROUNDING <= since <= min(_SAME, _SURE_SHARE * shortest)
            return
        earliest, latest = server_time(sent_at)[0], server_time(answered_at)[1]
        # The row was stamped between the sending and the response. The response may have been so slow, or the service's
        # time is known so badly, that a short turn could have ended by then as well.
        self.is_doubtful = earliest - _ROUNDING <= stamped <= latest + _ROUNDING
        shortest *= _SURE_SHARE
        self.is_only_prompt = self.is_doubtful and stamped - earliest <= min(_SURE, shortest)
        self.is_late = stamped - earliest > shortest

    def has_news(self, since: float, *, is_own: bool, sent_at: float = -math.inf) -> bool:
        """Return whether a change was announced after `since`.

        To a watcher that sent the prompt, that is no news, nor is what changed before it was sent. `sent_at` is that
        time at the earliest, in the service's time.
        """
        return self.moved_at > since and not (is_own and (self.is_only_prompt or self.changed_at < sent_at))
