"""What a session remembers of its prompts is bounded."""

from __future__ import annotations

import pytest

from nairi_async import Turn
from nairi_async._nairi.delivery import claims
from nairi_async._nairi.delivery.claims import ReceivedTurns, StartedConversation, StartedConversations


def turn(number: int) -> Turn:
    return Turn(f"job_{number}", f"cmsg_{number}")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_REMEMBERED", 5)


def test_the_oldest_conversations_are_forgotten() -> None:
    """With all that is known of them: a group of identical prompts that has no conversation left is gone."""
    starts = StartedConversations()
    for number in range(20):
        starts.add(StartedConversation(turn(number), b"even" if number % 2 == 0 else b"%d" % number, sent_at=number))
        with starts.recording(turn(number)):
            pass
    assert [number for number in range(20) if f"job_{number}" in starts] == [15, 16, 17, 18, 19]
    assert set(starts._by_digest) == {b"15", b"even", b"17", b"19"}
    assert set(starts._by_digest[b"even"]) == {"job_16", "job_18"}
    assert starts._recorded <= {f"job_{number}" for number in range(15, 20)}


def test_the_oldest_turns_are_forgotten() -> None:
    """A turn that started a conversation takes two places, since either id may be asked for."""
    received = ReceivedTurns()
    for number in range(20):
        received.add(turn(number), is_first=number % 2 == 0)
    assert "cmsg_19" in received
    assert "job_18" in received
    assert "cmsg_12" not in received
    assert len(received._ids) == 10
