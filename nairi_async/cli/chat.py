"""`nairi-async chat`: a conversation with an agent, one prompt a line."""

from __future__ import annotations

import asyncio
import importlib
import shlex
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nairi_async._core.closing import undisturbed
from nairi_async._core.json_body import json_line
from nairi_async._nairi.results import Reply
from nairi_async.cli import exit_status
from nairi_async.cli.arguments import PROGRAM
from nairi_async.cli.connection import open_session
from nairi_async.cli.conversation import files_text
from nairi_async.cli.formatting import clean, clock_time, error_line, message_entry, usage_text
from nairi_async.cli.narrator import Narrator
from nairi_async.cli.screen import Screen
from nairi_async.clock import SystemClock
from nairi_async.errors import InvalidArgumentError, NairiError, TurnFailedError, WatchTimeoutError
from nairi_async.models import Turn

if TYPE_CHECKING:
    from argparse import Namespace

    from nairi_async._nairi.polling.watch import Watch
    from nairi_async._nairi.session import NairiSession
    from nairi_async.models import Message

_ASKING: Final = "you> "
_GOING_ON: Final = "...> "
_LEAVING: Final = frozenset({"/quit", "/exit"})
# Seconds in which the event loop, which stands still at the prompt, sees which connections were closed meanwhile.
_CATCH_UP: Final = 0.01


def chat(options: Namespace) -> int:
    """Run the command `chat`."""
    if options.agent is None and options.job is None:
        raise InvalidArgumentError("AGENT must be given, or --job to go on with a conversation")
    session = open_session(options)
    # The loop stands still at the prompt, so that the terminal's own editing, history and Ctrl-C work there.
    with asyncio.Runner() as runner:
        runner.run(_open(session))
        try:
            return _Chat(runner, session, options).run()
        finally:
            runner.run(session.aclose())


async def _open(session: NairiSession) -> None:
    await session.__aenter__()


class _Chat:
    """The chat: reads prompts, and runs the loop for one turn at a time."""

    def __init__(self, runner: asyncio.Runner, session: NairiSession, options: Namespace) -> None:
        self._runner, self._nairi, self._options = runner, session, options
        self._out, self._err = Screen.on(sys.stdout), Screen.on(sys.stderr)
        self._job: str | None = options.job
        self._turn: Turn | None = None
        """The turn that runs, as far as is known."""
        self._watch: Watch | None = None
        self._messages: list[Message] = []
        self._is_terminal = sys.stdin is not None and sys.stdin.isatty()
        if self._is_terminal:
            # Gives `input` its editing and its history; Windows has its own.
            with suppress(ImportError):
                importlib.import_module("readline")

    def run(self) -> int:
        """Chat until the input ends, and return the exit status."""
        if self._is_terminal:
            self._err.show("Ctrl-C stops the wait, and not the turn; Ctrl-D ends the chat.", "dim")
        status = 0
        try:
            if self._job is not None:
                self._run_turn(None)
            while (prompt := self._read()) is not None and prompt.strip() not in _LEAVING:
                status = self._handle(prompt)
        except KeyboardInterrupt:
            self._err.show("")
            status = exit_status.INTERRUPTED
        finally:
            self._say_how_to_go_on()
        return exit_status.INTERRUPTED if self._watch is not None and not self._is_terminal else status

    def _handle(self, prompt: str) -> int:
        try:
            if self._watch is not None and self._run_turn(None):
                if prompt.strip():
                    self._err.show("The prompt was not sent: the agent still works on the one before.", "yellow")
            elif prompt.strip():
                self._run_turn(prompt)
        except TurnFailedError as error:
            self._err.show(error_line(error), "red")
            return exit_status.FAILED
        except NairiError as error:
            if self._job is None or not self._is_terminal:
                raise
            self._err.show(error_line(error), "red")
            return 1
        return 0

    def _run_turn(self, prompt: str | None) -> bool:
        """Send a prompt, or go on with what runs, and show the turn; return whether its end was not waited for."""
        try:
            facts = self._runner.run(self._show_open_turn() if prompt is None else self._ask(prompt))
        except (KeyboardInterrupt, WatchTimeoutError) as stop:
            if self._turn is None or self._watch is None:
                raise
            if isinstance(stop, WatchTimeoutError):
                self._begin(self._turn, after=self._watch.cursor)
            text = "\n" if isinstance(stop, KeyboardInterrupt) else f"{error_line(stop)}\n"
            again = "An empty line waits again." if self._is_terminal else ""
            self._err.show(f"{text}Not waiting any more; the agent goes on. {again}".rstrip(), "yellow")
            if not self._is_terminal:
                self._say_how_to_go_on()
            return True
        # Outside of the loop, which would take in a Ctrl-C that comes now, after its last wait, without effect.
        if facts:
            self._err.show(facts, "dim")
        return False

    async def _ask(self, prompt: str) -> str:
        await asyncio.sleep(_CATCH_UP)
        sending = asyncio.ensure_future(self._send(prompt))
        try:
            await undisturbed(sending)
        except asyncio.CancelledError:
            # Ctrl-C: the response, which is moments away, says which turn goes on.
            await sending
            raise
        return await self._follow()

    async def _send(self, prompt: str) -> None:
        nairi, options = self._nairi, self._options
        if self._job is None:
            turn = await nairi.start(options.agent, prompt, ask_mode=options.ask_mode, on_unknown="reconcile")
            self._err.show(clean(f"job {turn.job_id}"), "dim")
        else:
            turn = await nairi.continue_(self._job, prompt, on_unknown="reconcile")
        self._messages = []
        self._begin(turn)

    def _begin(self, turn: Turn, *, after: str | None = None) -> None:
        self._job, self._turn = turn.job_id, turn
        self._watch = self._nairi.watch(turn, after=after, progress=True, timeout=self._options.timeout)

    async def _show_open_turn(self) -> str:
        """Show the last turn of a conversation that is resumed, or go on with the one that runs."""
        await asyncio.sleep(_CATCH_UP)
        if self._watch is None and self._job is not None:
            messages = await self._nairi.messages(self._job)
            first = max((at for at, one in enumerate(messages) if one.role == "user"), default=0)
            prompt = messages[first] if messages else None
            is_open = prompt is not None and prompt.role == "user" and not prompt.is_terminal
            for message in messages[first : first + 1] if is_open else messages[first:]:
                self._err.show(message_entry(message, clock_time(message.created_at), self._err.style))
            if prompt is not None and is_open:
                self._begin(Turn(self._job, prompt.id, agent_id=self._options.agent))
        return "" if self._watch is None else await self._follow()

    async def _follow(self) -> str:
        """Show a turn until its end, and return what there is to say about it then."""
        watch, turn = self._watch, self._turn
        assert watch is not None  # noqa: S101 - there is one for each turn
        assert turn is not None  # noqa: S101 - as above
        narrator = Narrator(self._err, SystemClock())

        def show(message: Message) -> None:
            if message.role != "progress":
                self._messages.append(message)
            if message.role != "assistant":
                narrator.show_message(message)
            elif not self._options.json:
                # At once: the turn settles for a second more.
                self._out.show(clean(message.content))

        try:
            await narrator.follow(watch, show)
        except TurnFailedError:
            self._watch = self._turn = None
            raise
        self._watch = self._turn = None
        reply = Reply.of(turn, self._messages)
        if self._options.json:
            self._out.show(json_line(reply))
        facts = (f"{narrator.elapsed:.1f} s", usage_text(reply.usage), files_text(reply))
        return "; ".join(fact for fact in facts if fact)

    def _read(self) -> str | None:
        """Return the next prompt; `None` at the end of the input. A line that ends in a backslash goes on."""
        lines: list[str] = []
        while True:
            line = self._read_line(_GOING_ON if lines else _ASKING)
            if line is None:
                return "\n".join(lines) if lines else None
            if not line.endswith("\\"):
                return "\n".join((*lines, line))
            lines.append(line[:-1])

    def _read_line(self, asking: str) -> str | None:
        try:
            if self._is_terminal:
                return input(asking)
            line = "" if sys.stdin is None else sys.stdin.readline()
        except EOFError:
            self._err.show("")
            return None
        except UnicodeDecodeError as error:
            raise InvalidArgumentError(f"the input is not {error.encoding} text") from error
        return line.rstrip("\r\n") if line else None

    def _say_how_to_go_on(self) -> None:
        if self._job is None:
            return
        words = [PROGRAM, "chat", *([self._options.agent] if self._options.agent else []), "--job", self._job]
        words += ["--base-url", self._options.base_url] if self._options.base_url is not None else []
        self._err.show(f"To go on: {clean(shlex.join(words))}", "dim")
