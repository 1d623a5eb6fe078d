"""Webhooks of Amigo: what the service sends to an application, verified and typed.

The service signs each delivery (https://docs.amigo.ai/developer-guide/classic-api/webhooks): the header
`x-amigo-request-signature` holds the HMAC-SHA256, in hexadecimal digits, of `v1:{timestamp}:{body}` with the secret of
the destination; `x-amigo-request-timestamp` holds the milliseconds of the attempt since the Unix epoch, and
`x-amigo-idempotent-key` the same key in all attempts to deliver one webhook. For 30 minutes after a secret was rotated,
a delivery has two signatures.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

from attrs import evolve, field

from nairi_async._core import checks, decoding, json_body
from nairi_async._core.error_fields import error_with_fields
from nairi_async._core.records import frozen
from nairi_async.amigo.checks import MAX_AGE
from nairi_async.errors import ConfigurationError, InvalidArgumentError, NairiError

if TYPE_CHECKING:
    from nairi_async.clock import Clock
    from nairi_async.typing import Duration

_KEY_HEADER: Final = "x-amigo-idempotent-key"
_TIMESTAMP_HEADER: Final = "x-amigo-request-timestamp"
_SIGNATURE_HEADER: Final = "x-amigo-request-signature"
# Milliseconds since the Unix epoch, up to the year 5138.
_TIMESTAMP: Final = re.compile(r"[0-9]{1,14}", re.ASCII)
# How several signatures are put into one header is not documented.
_BETWEEN_SIGNATURES: Final = re.compile(r"[\s,;]+")
_MOST_SIGNATURES: Final = 8
# Deliveries to remember, so that a copy is refused; those beyond the age need no memory.
_MOST_REMEMBERED: Final = 100_000


@error_with_fields
class WebhookError(NairiError):
    """A webhook was refused. Respond with 401 or 400; the body must not be used."""

    message: str
    """What is wrong."""

    def __str__(self) -> str:
        return self.message


@error_with_fields
class WebhookSignatureError(WebhookError):
    """The signature is missing or does not fit: the body was not sent by the service, or was changed on its way."""


@error_with_fields
class WebhookExpiredError(WebhookError):
    """The delivery is older than `max_age`, or as far ahead of our clock."""


@error_with_fields
class WebhookReplayedError(WebhookError):
    """The same delivery was accepted before; a new attempt of the service has another timestamp."""


@frozen(kw_only=True)
class WebhookEvent:
    """What happened. Types that this library does not know are of this class."""

    type: str
    """The name of the event, as the service writes it, such as `api-key-expiration-soon`."""
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)
    """The JSON object, unknown fields included."""
    idempotent_key: str | None = None
    """The same for all attempts to deliver this webhook. It is not signed: use it to ignore a second attempt, not to
    trust the first."""
    sent_at: datetime | None = None
    """When this attempt was made, by the service's clock."""


@frozen(kw_only=True)
class ConversationPostProcessingComplete(WebhookEvent):
    """A step of the analysis after the end of a conversation is done."""

    post_processing_type: str | None = None
    """The step, such as `extract-memories` or `compute-metrics`."""
    conversation_id: str | None = None
    """The conversation."""
    org_id: str | None = None
    """The organisation."""


class Webhooks:
    """Verifies and reads the webhooks of one destination.

    ```python
    import hashlib, hmac, json, time

    from nairi_async.amigo import ConversationPostProcessingComplete, Webhooks, WebhookSignatureError

    webhooks = Webhooks("secret of the destination")
    body = json.dumps({"type": "conversation-post-processing-complete", "conversation_id": "67d8"}).encode()
    sent = str(int(time.time() * 1000))
    signature = hmac.digest(b"secret of the destination", f"v1:{sent}:".encode() + body, "sha256").hex()
    headers = {"x-amigo-request-timestamp": sent, "x-amigo-request-signature": signature}

    event = webhooks.read(body, headers)  # the body as it came, before any framework has parsed it
    assert isinstance(event, ConversationPostProcessingComplete) and event.conversation_id == "67d8"
    try:
        webhooks.read(body + b" ", headers)
    except WebhookSignatureError as error:
        print(f"401: {error}")
    ```

    Args:
        secret: The secret of the destination; or several, while one takes the place of another.
        max_age: Seconds after which a delivery is refused.
        clock: The clock; for tests `nairi_async.testing.VirtualClock`.

    Raises:
        ConfigurationError: a secret is blank, or `max_age` is not positive.
    """

    def __init__(self, secret: str | Iterable[str], *, max_age: Duration = MAX_AGE, clock: Clock | None = None) -> None:
        # The local name is cleared first: a traceback that shows local variables must not show the secrets.
        self._secrets, secret = _usable(secret), ""
        if not self._secrets:
            raise ConfigurationError("give the secret of the webhook destination: one text, or several")
        self._max_age = checks.seconds(max_age)
        checks.positive("max_age", self._max_age)
        self._clock = checks.clock(clock)
        # By when they expire: a timestamp with a digest of what was signed.
        self._seen: set[bytes] = set()
        self._order: deque[tuple[float, bytes]] = deque()

    def __repr__(self) -> str:
        return f"<Webhooks: {len(self._secrets)} secrets, not shown>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Webhooks holds secrets; make one in each process")

    def read(self, body: bytes, headers: Mapping[str, str]) -> WebhookEvent:
        """Verify a delivery, and return its event.

        The comparison takes the same time for every signature. Each process remembers what it has accepted, so a
        copy that reaches another process within `max_age` is not noticed: ignore an `idempotent_key` that was handled.

        Args:
            body: The body as it came.
            headers: The headers, of any framework; the case of their names does not matter.

        Raises:
            WebhookSignatureError: the signature is missing or does not fit.
            WebhookExpiredError: it is too old.
            WebhookReplayedError: the same delivery was accepted before.
            DecodeError: the service signed what is no JSON object.
        """
        if not isinstance(body, bytes | bytearray | memoryview):
            raise InvalidArgumentError(f"the body must be the bytes that came, not {type(body).__name__}")
        body = bytes(body)
        timestamp = _header(headers, _TIMESTAMP_HEADER)
        signed = self._verified(body, timestamp, _header(headers, _SIGNATURE_HEADER))
        sent_at = int(timestamp) / 1000
        self._check_age(sent_at)
        raw = json_body.decode_object(body, json_body.FLOAT_DECODER)
        self._remember(sent_at, signed)
        kind = raw.get("type")
        read = decoding.reader((_EVENTS.get(kind) if isinstance(kind, str) else None) or WebhookEvent)
        key = next(iter(_values(headers, _KEY_HEADER)), None)
        return evolve(read(raw), idempotent_key=key, sent_at=datetime.fromtimestamp(sent_at, UTC))

    def _verified(self, body: bytes, timestamp: str, signatures: str) -> bytes:
        """Return what identifies a delivery whose signature fits."""
        if not _TIMESTAMP.fullmatch(timestamp):
            raise WebhookSignatureError(f"{_TIMESTAMP_HEADER} is no time in milliseconds")
        signed = b"v1:" + timestamp.encode() + b":" + body
        if not self._fits(signed, signatures):
            raise WebhookSignatureError("the signature does not fit: another secret, or the body was changed")
        return hashlib.sha256(signed).digest()

    def _fits(self, signed: bytes, signatures: str) -> bool:
        """Return whether a signature fits. It raises nothing: the right signature is in its local variables."""
        given = [one.lower().encode("ascii", "replace") for one in _BETWEEN_SIGNATURES.split(signatures) if one]
        expected = [hmac.digest(secret, signed, "sha256").hex().encode() for secret in self._secrets]
        fits = [hmac.compare_digest(one, other) for one in given[:_MOST_SIGNATURES] for other in expected]
        return any(fits)

    def _check_age(self, sent_at: float) -> None:
        age = self._clock.time() - sent_at
        if age > self._max_age:
            raise WebhookExpiredError(f"the webhook is {age:.0f} s old, more than {self._max_age:.0f} s")
        if -age > self._max_age:
            raise WebhookExpiredError(f"the webhook is {-age:.0f} s ahead of this clock: one of the clocks is wrong")

    def _remember(self, sent_at: float, identity: bytes) -> None:
        now = self._clock.time()
        while self._order and (self._order[0][0] < now or len(self._order) >= _MOST_REMEMBERED):
            self._seen.discard(self._order.popleft()[1])
        if identity in self._seen:
            raise WebhookReplayedError("the same webhook was accepted before")
        self._seen.add(identity)
        # By when it was accepted: one that is ahead of this clock may be sent for longer.
        self._order.append((max(now, sent_at) + self._max_age, identity))


def _usable(given: object) -> tuple[bytes, ...]:
    """Return the secrets as bytes, or none if one of them is no secret. It raises nothing, as it has them as locals."""
    all_ = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else ()
    are_texts = all(isinstance(one, str) and one.strip() for one in all_)
    try:
        return tuple(str(one).encode() for one in all_) if are_texts else ()
    except UnicodeEncodeError:
        return ()


def _values(headers: Mapping[str, str], name: str) -> list[str]:
    """Return the values of a header: some frameworks give it several times."""
    return [str(value) for key, value in headers.items() if isinstance(key, str) and key.lower() == name]


def _header(headers: Mapping[str, str], name: str) -> str:
    values = _values(headers, name)
    if not values:
        raise WebhookSignatureError(f"the header {name} is missing")
    return ",".join(values)


_EVENTS: Final[Mapping[str, type[WebhookEvent]]] = {
    "conversation-post-processing-complete": ConversationPostProcessingComplete,
}
