"""Webhooks: only what the service signed, just now and once, is read."""

from __future__ import annotations

import copy
import hmac
import json
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from amigo_sessions import session
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from test_secrecy import frame_locals, shown

from nairi_async import ConfigurationError, DecodeError, InvalidArgumentError, NairiError
from nairi_async.amigo import (
    ConversationPostProcessingComplete,
    WebhookError,
    WebhookExpiredError,
    WebhookReplayedError,
    Webhooks,
    WebhookSignatureError,
)
from nairi_async.testing import VirtualClock

NEW, OLD = "new-secret", "old-secret"
DONE = {
    "type": "conversation-post-processing-complete",
    "post_processing_type": "extract-memories",
    "conversation_id": "67d871c23eb91293ecfae8b0",
    "org_id": "acme",
}
BODY = json.dumps(DONE).encode()


def signed(body: bytes, clock: VirtualClock, *secrets: str, age: float = 0.0, key: str = "k-1") -> dict[str, str]:
    """Return the headers of a delivery."""
    sent = str(round((clock.time() - age) * 1000))
    signatures = [hmac.digest(one.encode(), f"v1:{sent}:".encode() + body, "sha256").hex() for one in secrets or (NEW,)]
    return {
        "X-Amigo-Idempotent-Key": key,
        "X-Amigo-Request-Timestamp": sent,
        "X-Amigo-Request-Signature": ", ".join(signatures),
    }


def test_an_event_is_verified_and_typed(clock: VirtualClock) -> None:
    """What was signed just now is read, with its key and its time; unknown types keep their object."""
    event = Webhooks(NEW, clock=clock).read(BODY, signed(BODY, clock))
    assert isinstance(event, ConversationPostProcessingComplete)
    assert (event.conversation_id, event.post_processing_type) == (DONE["conversation_id"], "extract-memories")
    assert (event.idempotent_key, event.sent_at) == ("k-1", datetime.fromtimestamp(clock.time(), UTC))
    assert event.raw == DONE
    of_session = session("http://127.0.0.1:1", clock=clock).webhooks(NEW)
    assert of_session.read(BODY, signed(BODY, clock)) == event
    other = json.dumps({"type": "api-key-expiration-soon", "x": 1}).encode()
    assert Webhooks(NEW, clock=clock).read(other, signed(other, clock)).raw["x"] == 1


@given(place=st.integers(0, len(BODY) - 1), difference=st.integers(1, 255))
def test_a_body_that_was_changed_by_one_byte_is_refused(place: int, difference: int) -> None:
    """Whichever byte it is."""
    clock, changed = VirtualClock(), bytearray(BODY)
    changed[place] = (changed[place] + difference) % 256
    with pytest.raises(WebhookSignatureError):
        Webhooks(NEW, clock=clock).read(bytes(changed), signed(BODY, clock))


@pytest.mark.parametrize("secrets", [(OLD, NEW), (NEW, OLD), (OLD,), (NEW,)])
def test_a_rotated_secret_fits_in_any_order(secrets: tuple[str, ...], clock: VirtualClock) -> None:
    """For half an hour there are two signatures; the receiver may have one of the secrets, or both."""
    for held in ((NEW, OLD), secrets[0], (secrets[-1],)):
        assert Webhooks(held, clock=clock).read(BODY, signed(BODY, clock, *secrets)).type
    apart = CIMultiDict(signed(BODY, clock, OLD))
    apart.add("x-amigo-request-signature", signed(BODY, clock, NEW)["X-Amigo-Request-Signature"])
    assert Webhooks(NEW, clock=clock).read(BODY, apart).type
    with pytest.raises(WebhookSignatureError):
        Webhooks("another", clock=clock).read(BODY, apart)


@pytest.mark.parametrize(
    "change",
    [
        {"X-Amigo-Request-Signature": ""},
        {"X-Amigo-Request-Signature": "00" * 32},
        {"X-Amigo-Request-Signature": "\N{LATIN SMALL LETTER E WITH ACUTE}" * 64},
        {"X-Amigo-Request-Timestamp": "1"},
        {"X-Amigo-Request-Timestamp": "-1"},
        {"X-Amigo-Request-Timestamp": "\N{ARABIC-INDIC DIGIT ONE}"},
        {"X-Amigo-Request-Timestamp": "9" * 400},
    ],
)
def test_headers_that_do_not_fit_are_refused(change: dict[str, str], clock: VirtualClock) -> None:
    """Neither a signature nor a time can be made up."""
    with pytest.raises(WebhookSignatureError):
        Webhooks(NEW, clock=clock).read(BODY, {**signed(BODY, clock), **change})


@pytest.mark.parametrize("missing", ["X-Amigo-Request-Signature", "X-Amigo-Request-Timestamp"])
def test_missing_headers_are_named(missing: str, clock: VirtualClock) -> None:
    """The error says which header is missing."""
    headers = signed(BODY, clock)
    del headers[missing]
    with pytest.raises(WebhookSignatureError, match=missing.lower()):
        Webhooks(NEW, clock=clock).read(BODY, headers)


@pytest.mark.parametrize("age", [301, -301])
def test_what_is_old_or_far_ahead_is_refused(age: float, clock: VirtualClock) -> None:
    """Five minutes are the bound, in both directions."""
    with pytest.raises(WebhookExpiredError):
        Webhooks(NEW, clock=clock).read(BODY, signed(BODY, clock, age=age))
    assert Webhooks(NEW, max_age=400, clock=clock).read(BODY, signed(BODY, clock, age=age)).type


@pytest.mark.parametrize("age", [0, 299, -299])
def test_a_copy_is_refused_and_another_attempt_is_not(age: float, clock: VirtualClock) -> None:
    """The key of a copy may have been changed, since it is not signed; no copy is accepted at any later time."""
    webhooks = Webhooks(NEW, clock=clock)
    headers = signed(BODY, clock, age=age)
    webhooks.read(BODY, headers)
    for _ in range(70):
        with pytest.raises((WebhookReplayedError, WebhookExpiredError)):
            webhooks.read(BODY, {**headers, "X-Amigo-Idempotent-Key": "k-2"})
        clock.advance(10)
    assert webhooks.read(BODY, signed(BODY, clock)).idempotent_key == "k-1"


def test_what_is_refused_is_not_remembered(clock: VirtualClock) -> None:
    """A body that cannot be read may be sent again once the receiver is mended; a forged one costs no memory."""
    webhooks, broken = Webhooks(NEW, clock=clock), b"no json"
    for _ in range(2):
        with pytest.raises(DecodeError):
            webhooks.read(broken, signed(broken, clock))
    with pytest.raises(InvalidArgumentError, match="bytes"):
        webhooks.read("text", signed(broken, clock))  # type: ignore[arg-type]


@pytest.mark.parametrize("secret", ["", " ", [], ["a", ""], [7]])
def test_a_secret_is_needed(secret: Any) -> None:
    """An empty secret would accept what anybody signs with it."""
    with pytest.raises(ConfigurationError):
        Webhooks(secret)


@pytest.mark.parametrize("settings", [{"secret": [NEW, ""]}, {"secret": NEW, "max_age": 0}, {"secret": {NEW: 7, 8: 9}}])
def test_no_error_shows_a_secret(settings: dict[str, Any], clock: VirtualClock) -> None:
    """Neither a refused setting nor a refused delivery leaves a secret, or the right signature, in a frame of ours."""
    errors: list[NairiError] = []
    for make in (Webhooks, session("http://127.0.0.1:1", clock=clock).webhooks):
        with pytest.raises(ConfigurationError) as refused:
            make(**settings)
        errors.append(refused.value)
    headers = signed(BODY, clock)
    right, headers["X-Amigo-Request-Signature"] = headers["X-Amigo-Request-Signature"], "0" * 64
    with pytest.raises(WebhookSignatureError) as forged:
        Webhooks(NEW, clock=clock).read(BODY, headers)
    for error in (*errors, forged.value):
        assert not [text for text in (*shown(error), *frame_locals(error)) if NEW in text or right in text]


def test_secrets_and_errors(clock: VirtualClock) -> None:
    """No repr shows a secret, nothing pickles one, and the errors survive both."""
    assert NEW not in repr(Webhooks(NEW, clock=clock))
    with pytest.raises(TypeError):
        pickle.dumps(Webhooks(NEW))
    for kind in (WebhookError, WebhookSignatureError, WebhookExpiredError, WebhookReplayedError):
        error = kind("why")
        assert isinstance(error, NairiError)
        assert str(pickle.loads(pickle.dumps(error))) == str(copy.copy(error)) == "why"  # noqa: S301 - our own
