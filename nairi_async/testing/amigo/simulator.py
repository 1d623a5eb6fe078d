"""An Amigo service on the loopback interface, with scripted services, for tests of its clients."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from nairi_async.testing.amigo.directory import DirectoryRoutes
from nairi_async.testing.amigo.faults import Fault, Faults
from nairi_async.testing.amigo.quirks import AmigoQuirks
from nairi_async.testing.amigo.routes import AmigoRoutes
from nairi_async.testing.amigo.script import Script, default_script, steps_of
from nairi_async.testing.amigo.state import AmigoState, Credentials, Service, User
from nairi_async.testing.amigo.stream import RequestContext, request_context
from nairi_async.testing.faults import FaultPlan
from nairi_async.testing.faults import Faults as RandomFaults
from nairi_async.testing.ids import IdMaker
from nairi_async.testing.json_bodies import RefusedError, json_response
from nairi_async.testing.middleware import bearer
from nairi_async.testing.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiohttp.typedefs import Handler

    from nairi_async.clock import Clock
    from nairi_async.testing import faults
    from nairi_async.testing.amigo.limits import Endpoint
    from nairi_async.testing.amigo.timeline import RecordedInteraction

_PLAIN = AmigoQuirks()

# The endpoints without a documented 404.
_NEVER_MISSING = {"conversations"}


class AmigoSimulator(Server):
    """An HTTP server that follows https://api.amigo.ai/v1/openapi.json, and `quirks` where that is silent.

    Use it in `async with`. The service `service_id` always exists; `service` creates others, each with a script: a
    text, a list of steps, or a function of the message and the number of the turn that returns one of them (the
    message is empty where the agent speaks first). Equal seeds and equal calls make equal ids.

    `faults` make a share of the requests fail before the service acts; other kinds fit calls that do not stream.

    With a `VirtualClock`, streams of minutes take milliseconds, up to the client's `idle_timeout` and `timeout=`. Give
    the same clock to the simulator and to the session; otherwise the test never ends, because each side waits for a
    time that only the other side reaches.
    """

    def __init__(
        self,
        script: Script = default_script,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        organization: str = "simulated",
        api_key: str = "amigo_simulator",
        api_key_id: str = "simulated-key",
        users: Iterable[str] = ("simulated-user",),
        clock: Clock | None = None,
        quirks: AmigoQuirks = _PLAIN,
        seed: int = 0,
        faults: FaultPlan | None = None,
    ) -> None:
        super().__init__(host, port, clock)
        self._check("quirks", quirks, AmigoQuirks)
        faults = FaultPlan() if faults is None else faults
        self._check("faults", faults, FaultPlan)
        user_ids = tuple(users)
        credentials = Credentials(organization, api_key, api_key_id, user_ids[0])
        known = {user: User(user, email=f"{user}@example.com") for user in user_ids}
        self._state = AmigoState(quirks, IdMaker(seed), credentials, _transcribe, known)
        self._faults = Faults()
        self._configure(
            _AccessPolicy(self._state, self._faults, self._clock),
            [*AmigoRoutes(self._state, self._clock).table(), *DirectoryRoutes(self._state, self._clock).table()],
        )
        self._middleware.faults = RandomFaults(faults)
        self.service_id: str = self.service(script)
        """Id of the service that is always there."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a client that signs in as the first user: `AmigoSession(**simulator.settings)`."""
        credentials = self._state.credentials
        return {
            "api_key": credentials.api_key,
            "api_key_id": credentials.api_key_id,
            "user_id": credentials.user,
            "organization_id": credentials.organization,
            "base_url": self.url,
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same settings as environment variables."""
        return {f"AMIGO_{name.upper()}": value for name, value in self.settings.items()}

    @property
    def api_key(self) -> str:
        """The one valid key; assign another to revoke it. Tokens stay valid: see `expire_tokens`."""
        return self._state.credentials.api_key

    @api_key.setter
    def api_key(self, api_key: str) -> None:
        self._state.credentials.api_key = api_key

    @property
    def quirks(self) -> AmigoQuirks:
        """What the service does where its documentation is silent; new quirks apply from the next request on."""
        return self._state.quirks

    @quirks.setter
    def quirks(self, quirks: AmigoQuirks) -> None:
        self._state.quirks = quirks

    @property
    def per_minute(self) -> dict[str, int]:
        """Requests a minute for each endpoint, enforced with `quirks.limits`; the numbers may be changed."""
        return self._state.limits.per_minute

    @property
    def asked(self) -> list[RecordedInteraction]:
        """All turns that ran, void ones too, in order; a message sent twice by mistake is listed twice."""
        return self._state.asked

    @property
    def saved(self) -> list[RecordedInteraction]:
        """The turns of `asked` that are saved by now."""
        now, conversations = self._clock.time(), self._state.conversations.values()
        saved = {id(turn.interaction) for one in conversations for turn in one.saved(now)}
        return [recorded for recorded in self._state.asked if id(recorded) in saved]

    @property
    def users(self) -> tuple[str, ...]:
        """Ids of the users there are now, those that a client has created included."""
        return tuple(self._state.users)

    @property
    def sign_ins(self) -> int:
        """Number of tokens that were issued."""
        return self._state.sign_ins

    def service(
        self,
        script: Script = default_script,
        *,
        service_id: str | None = None,
        name: str | None = None,
        voice: bool = True,
        recommended: Iterable[str] | None = None,
    ) -> str:
        """Create a service, or change the one with that id for its next turns; return its id.

        `name` is what lists show; `voice` says whether it can speak and listen; `recommended` are its suggestions for
        the user's next message.
        """
        if not callable(script):
            steps_of(script, "", 1)
        service_id = service_id or self._state.ids.object_id(self._clock.time())
        service = self._state.services.setdefault(service_id, Service(service_id))
        service.script, service.voice = script, voice
        if name is not None:
            service.name = name
        if recommended is not None:
            service.recommended = tuple(recommended)
        return service_id

    def transcribe(self, function: Callable[[bytes], str]) -> None:
        """Set the function that transcribes voice messages from now on."""
        self._state.transcribe = function

    def expire_tokens(self) -> None:
        """Refuse all tokens issued so far, as if they had expired."""
        self._state.tokens.clear()

    def refuse(
        self,
        status: int,
        text: str = "refused by the test",
        *,
        on: Endpoint | None = None,
        times: int = 1,
        retry_after: int | str | None = None,
    ) -> None:
        """Refuse the next requests, or the next to that endpoint, before the service acts on them."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self._faults.plan(Fault("refuse", on, times, status, text, headers))

    def cut(self, *, on: Endpoint | None = None, times: int = 1, processed: bool = False) -> None:
        """Cut the connection of the next requests without a response; with `processed` after the service has acted."""
        self._faults.plan(Fault("lose" if processed else "cut", on, times))

    def hang(self, *, on: Endpoint | None = None, times: int = 1) -> None:
        """Never respond to the next requests, and do not act on them."""
        self._faults.plan(Fault("hang", on, times))

    def forgive(self) -> None:
        """Cancel the faults that are still to come."""
        self._faults.planned.clear()


class _AccessPolicy:
    """Lets in requests with a token, within the documented limits, unless a fault is planned."""

    def __init__(self, state: AmigoState, planned: Faults, clock: Clock) -> None:
        self._state, self._faults, self._clock = state, planned, clock

    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        now, endpoint = self._clock.time(), request.match_info.route.name
        response_lost = await self._faults.apply(endpoint, self._clock)
        if endpoint is None:
            # Without a token nothing is said about what there is.
            self._state.user_of(bearer(request), now)
            return await handler(request)
        user = "" if endpoint == "sign_in" else self._state.user_of(bearer(request), now)
        if request.match_info["organization"] != self._state.credentials.organization:
            raise RefusedError(403 if endpoint in _NEVER_MISSING else 404, "organization not found")
        headers = self._state.limits.take(endpoint, user, now, self._state.quirks)
        date = formatdate(now + self._state.quirks.clock_skew, usegmt=True)
        request_context.set(RequestContext(user, {**headers, hdrs.DATE: date}, response_lost))
        response = await handler(request)
        if response_lost:
            raise ConnectionResetError
        if not response.prepared:
            response.headers.update(headers)
        return response

    def error_response(self, error: RefusedError) -> web.Response:
        form = self._state.quirks.error_body
        if form in {"detail", "message"}:
            response = json_response({form: error.text}, error.status)
        else:
            response = web.Response(text=error.text if form == "text" else "", status=error.status)
        response.headers.update(error.headers)
        return response

    def prepare(self, _fault: faults.Fault | None, _plan: faults.FaultPlan, /) -> float:
        return self._state.quirks.clock_skew


def _transcribe(audio: bytes) -> str:
    return f"{len(audio)} bytes of audio"
