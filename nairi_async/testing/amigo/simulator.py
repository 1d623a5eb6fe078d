"""An Amigo service on the loopback interface, with scripted services, for tests of whatever talks to it."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from nairi_async.testing.amigo.caller import RequestExecutor, executor
from nairi_async.testing.amigo.faults import Fault, Faults
from nairi_async.testing.amigo.quirks import AmigoQuirks
from nairi_async.testing.amigo.routes import AmigoRoutes
from nairi_async.testing.amigo.script import Script, default_script, steps_of
from nairi_async.testing.amigo.world import Credentials, Service, World
from nairi_async.testing.answers import answer
from nairi_async.testing.gate import bearer
from nairi_async.testing.ids import IdMaker
from nairi_async.testing.refused import RefusedError
from nairi_async.testing.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiohttp.typedefs import Handler

    from nairi_async.clock import Clock
    from nairi_async.testing import faults
    from nairi_async.testing.amigo.limits import Endpoint
    from nairi_async.testing.amigo.turn import AmigoAsked

_PLAIN = AmigoQuirks()

# The endpoints that no document says to answer 404.
_NEVER_MISSING = {"conversations"}


class AmigoSimulator(Server):
    """A real HTTP server that behaves as Amigo's documentation says, and as `quirks` say where it says nothing.

    Use it with `async with`. The service `service_id` always exists; `service` makes others, each with a script: a
    text, a list of steps, or a function of the message and the number of the turn that returns one of them (the
    message is empty where the agent speaks first). Give the same `VirtualClock` to it and to the client, and streams
    of minutes take milliseconds, up to the client's `idle_timeout`; its `timeout=` is in real seconds. Equal seeds
    and equal calls make equal ids.
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
    ) -> None:
        super().__init__(host, port, clock)
        credentials = Credentials(organization, api_key, api_key_id, tuple(users))
        self._world = World(quirks, IdMaker(seed), credentials, _transcribe)
        self._faults = Faults()
        self._open(_House(self._world, self._faults, self._clock), AmigoRoutes(self._world, self._clock).table())
        self.service_id = self.service(script)
        """Id of the service that is always there."""

    @property
    def settings(self) -> dict[str, Any]:
        """How a client finds the simulator and signs in as its first user: `AmigoSession(**simulator.settings)`."""
        known = self._world.credentials
        return {
            "api_key": known.api_key,
            "api_key_id": known.api_key_id,
            "user_id": known.users[0],
            "organization_id": known.organization,
            "base_url": self.url,
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables."""
        return {f"AMIGO_{name.upper()}": value for name, value in self.settings.items()}

    @property
    def api_key(self) -> str:
        """The one key that signs in; change it to revoke the old one. Tokens stay good: see `expire_tokens`."""
        return self._world.credentials.api_key

    @api_key.setter
    def api_key(self, api_key: str) -> None:
        self._world.credentials.api_key = api_key

    @property
    def quirks(self) -> AmigoQuirks:
        """Replaceable while the simulator runs; the next request meets the new ones."""
        return self._world.quirks

    @quirks.setter
    def quirks(self, quirks: AmigoQuirks) -> None:
        self._world.quirks = quirks

    @property
    def per_minute(self) -> dict[str, int]:
        """Requests a minute for each endpoint, where `quirks.limits` are on; change them at will."""
        return self._world.limits.per_minute

    @property
    def asked(self) -> list[AmigoAsked]:
        """All turns that ran, void ones too, in order: a message sent twice by mistake is here twice."""
        return self._world.asked

    @property
    def saved(self) -> list[AmigoAsked]:
        """Those of `asked` that are saved by now."""
        now, conversations = self._clock.time(), self._world.conversations.values()
        kept = {id(turn.asked) for one in conversations for turn in one.saved(now)}
        return [asked for asked in self._world.asked if id(asked) in kept]

    @property
    def sign_ins(self) -> int:
        """How many tokens were given out."""
        return self._world.sign_ins

    def service(
        self,
        script: Script = default_script,
        *,
        service_id: str | None = None,
        voice: bool = True,
        recommended: Iterable[str] | None = None,
    ) -> str:
        """Make a service, or change the one of that id for the turns to come; return its id.

        `voice` is whether it can speak and listen; `recommended` what it suggests as the user's next message.
        """
        if not callable(script):
            steps_of(script, "", 1)
        made = service_id or self._world.ids.object_id(self._clock.time())
        service = self._world.services.setdefault(made, Service(made))
        service.script, service.voice = script, voice
        if recommended is not None:
            service.recommended = tuple(recommended)
        return made

    def transcribe(self, function: Callable[[bytes], str]) -> None:
        """Say what is heard in a voice message from now on."""
        self._world.transcribe = function

    def expire_tokens(self) -> None:
        """Refuse all tokens given out so far, as if their time had come."""
        self._world.tokens.clear()

    def refuse(
        self,
        status: int,
        text: str = "refused by the test",
        *,
        on: Endpoint | None = None,
        times: int = 1,
        retry_after: int | str | None = None,
    ) -> None:
        """Answer the next requests, or the next on that endpoint, with an error before anything is done about them."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self._faults.plan(Fault("refuse", on, times, status, text, headers))

    def cut(self, *, on: Endpoint | None = None, times: int = 1, processed: bool = False) -> None:
        """Cut the connection of the next requests without an answer; with `processed` after the work is done."""
        self._faults.plan(Fault("lose" if processed else "cut", on, times))

    def hang(self, *, on: Endpoint | None = None, times: int = 1) -> None:
        """Never answer the next requests, and do nothing about them."""
        self._faults.plan(Fault("hang", on, times))

    def forgive(self) -> None:
        """Forget the refusals, cuts and hangs that are still to come."""
        self._faults.planned.clear()


class _House:
    """Lets in whoever has a token, at the documented pace, unless a fault is planned."""

    def __init__(self, world: World, planned: Faults, clock: Clock) -> None:
        self._world, self._faults, self._clock = world, planned, clock

    async def handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        now, endpoint = self._clock.time(), request.match_info.route.name
        is_lost = await self._faults.meet(endpoint, self._clock)
        if endpoint is None:
            return await handler(request)
        user = "" if endpoint == "sign_in" else self._world.user_of(bearer(request), now)
        if request.match_info["organization"] != self._world.credentials.organization:
            raise RefusedError(403 if endpoint in _NEVER_MISSING else 404, "organization not found")
        headers = self._world.limits.take(endpoint, user, now, self._world.quirks)
        date = formatdate(now + self._world.quirks.clock_skew, usegmt=True)
        executor.set(RequestExecutor(user, {**headers, hdrs.DATE: date}, is_lost))
        response = await handler(request)
        if is_lost:
            raise ConnectionResetError
        if not response.prepared:
            response.headers.update(headers)
        return response

    def refusal(self, error: RefusedError) -> web.Response:
        shape = self._world.quirks.error_body
        if shape in {"detail", "message"}:
            response = answer({shape: error.text}, error.status)
        else:
            response = web.Response(text=error.text if shape == "text" else "", status=error.status)
        response.headers.update(error.headers)
        return response

    def meet(self, _fault: faults.Fault | None, _plan: faults.FaultPlan, /) -> float:
        return self._world.quirks.clock_skew


def _transcribe(audio: bytes) -> str:
    return f"{len(audio)} bytes of audio"
