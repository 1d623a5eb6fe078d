"""The methods of a session that read turns and conversations: messages, watches, ends, replies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, overload

from nairi_async._core import checks
from nairi_async._core.address import path
from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._core.request import Request
from nairi_async._nairi import arguments, wire
from nairi_async._nairi.polling.replica_lag import through_replica_lag
from nairi_async.models import Turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.many import TargetT, WatchMany
    from nairi_async._nairi.polling.context import PollingContext
    from nairi_async._nairi.polling.watch import Watch
    from nairi_async._nairi.results import Reply
    from nairi_async._nairi.turn_reader import TurnReader
    from nairi_async._nairi.usage import UsageMeter
    from nairi_async.models import Message
    from nairi_async.typing import Duration


class ReadingMethods:
    """The methods of `NairiSession` that read turns. Each call raises `NairiError` if it fails."""

    _context: PollingContext
    _executor: RequestExecutor
    _meter: UsageMeter
    _reader: TurnReader

    async def message(self, message_id: Turn | str) -> Message:
        """Read one message as it is now (`GET messages/{message_id}`).

        Args:
            message_id: The message: its id, or a turn for the turn's user message.
        """
        id_ = arguments.message_id(message_id)
        read = partial(self._executor.call, Request(method="GET", path=path("messages", id_)), wire.decode_message)
        message = await through_replica_lag(self._context, id_, read)
        if message.usage is not None:
            self._meter.count_final((message,))
        return message

    async def messages(self, job_id: Turn | str, *, progress: bool = False) -> list[Message]:
        """Read all messages of a conversation as they are now, oldest first (`GET conversations/{job_id}/messages`).

        Args:
            job_id: The conversation: its job id, or one of its turns.
            progress: Include progress messages.
        """
        job = arguments.job_id(job_id)
        location = path("conversations", job, "messages")
        decode = partial(wire.decode_timeline, progress=checks.flag("progress", progress))
        read = partial(self._executor.call, Request(method="GET", path=location), decode)
        messages = list(await through_replica_lag(self._context, job, read))
        self._meter.count_final(messages)
        return messages

    def watch(
        self,
        turn_or_job_id: Turn | str,
        *,
        after: str | None = None,
        follow: bool = False,
        progress: bool = False,
        timeout: Duration | None = DEFAULT_TIMEOUT,
    ) -> Watch:
        """Return an async iterator over new messages, as they are discovered; `Watch` describes its guarantees.

        Args:
            turn_or_job_id: A turn: the iterator yields the messages after its user message, and ends with the turn.
                A job id: it yields the whole conversation, including user messages, and ends when no turn is running.
            after: Id of a message, such as `watch.cursor`: only later messages are yielded.
            follow: Do not end with the turn; continue until the watch is closed.
            progress: Yield progress messages as well.
            timeout: Seconds for the whole wait; `None` for no limit, which is the default with `follow`.
        """
        is_turn = isinstance(turn_or_job_id, Turn)
        target = arguments.turn(turn_or_job_id) if is_turn else arguments.job_id(turn_or_job_id)
        endless = checks.flag("follow", follow)
        return self._reader.watch(
            target,
            # Compared by identity: the default is no limit here, six hours given as a number are a limit.
            checks.timeout(None if endless and timeout is DEFAULT_TIMEOUT else timeout),
            after=None if after is None else checks.identifier("after", after),
            follow=endless,
            progress=checks.flag("progress", progress),
        )

    async def wait(self, turn: Turn, *, timeout: Duration | None = DEFAULT_TIMEOUT) -> Message:
        """Wait for the end of a turn, and return its user message, whose status is `completed` or `failed`.

        Args:
            turn: The turn.
            timeout: Seconds for the whole wait; `None` for no limit.

        Raises:
            WatchTimeoutError: the timeout is over, and the turn is still running.
            NairiError: reading failed for longer than the retry policy allows, or was refused.
        """
        return await self._reader.wait(arguments.turn(turn), checks.timeout(timeout))

    async def reply(self, turn: Turn, *, timeout: Duration | None = DEFAULT_TIMEOUT) -> Reply:
        """Wait for the end of a turn, and return its reply: text, messages, usage. Arguments as for `wait`.

        If the turn ends without text, `Reply.text` is empty. Where the list of the conversation's messages is older
        than the end, it is read again for up to half a minute.

        Raises:
            TurnFailedError: the turn ended as `failed`; the error contains the service's text and the messages.
            WatchTimeoutError: the timeout is over and the turn is still running; or, with `status` `completed`, the
                turn has ended, and the list still shows neither that nor a reply.
            NairiError: as for `wait`.
        """
        return await self._reader.reply(arguments.turn(turn), checks.timeout(timeout))

    @overload
    def watch_many(
        self,
        *,
        follow: bool = False,
        progress: bool = False,
        timeout: Duration | None = DEFAULT_TIMEOUT,
    ) -> WatchMany[Turn | str]: ...

    @overload
    def watch_many(
        self,
        turns: Iterable[TargetT],
        *,
        after: Mapping[Turn, str] | Mapping[str, str] | Mapping[Turn | str, str] | None = None,
        follow: bool = False,
        progress: bool = False,
        timeout: Duration | None = DEFAULT_TIMEOUT,
    ) -> WatchMany[TargetT]: ...

    def watch_many(
        self,
        turns: Iterable[Any] = (),
        *,
        after: Mapping[Any, str] | None = None,
        follow: bool = False,
        progress: bool = False,
        timeout: Duration | None = DEFAULT_TIMEOUT,
    ) -> WatchMany[Any]:
        """Return a stream of the messages of many turns or conversations; use it in `async with`.

        `async with nairi.watch_many(turns) as stream:` opens it, and `async for turn, message in stream:` reads it.

        Args:
            turns: What to watch: a turn, or a job id for a whole conversation. One given twice is watched once.
                `stream.add` adds more.
            after: A message id for each of some of them, such as `stream.cursors`: only later messages are yielded.
            follow: Do not end with the turns; continue until the stream is closed.
            progress: Yield progress messages as well.
            timeout: Seconds for each of them; `None` for no limit, which is the default with `follow`.
        """
        from nairi_async._nairi.many import WatchMany  # noqa: PLC0415 - many programs watch one turn

        cursors = arguments.cursors(after)

        def watch(target: Turn | str, after: str | None) -> Watch:
            return self.watch(target, after=after, follow=follow, progress=progress, timeout=timeout)

        # Refused now, and not by the first watch.
        checks.timeout(timeout)
        checks.flag("progress", progress)
        checks.flag("follow", follow)
        return WatchMany([(target, cursors.get(target)) for target in arguments.targets(turns)], watch)
