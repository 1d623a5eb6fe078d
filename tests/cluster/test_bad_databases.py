"""What is refused, in one sentence, before anything is sent: URLs, databases, versions, rights, records."""

from __future__ import annotations

import asyncio
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from clusters import AGENT
from support import Act, RawServer, chain, free_port, until
from test_secrecy import frame_locals, shown

from nairi_async import ConfigurationError, InvalidArgumentError, SessionClosedError
from nairi_async._core.concealed import Concealed
from nairi_async.cluster import Cluster, PostgresStore
from nairi_async.cluster.address import Address
from nairi_async.cluster.database import Database, connect
from nairi_async.cluster.liveness import Liveness
from nairi_async.cluster.tickets import Ticket, TicketQueue
from nairi_async.errors import LedgerError, StoreError, UnknownBatchError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clusters import Field
    from postgres import Postgres

pytestmark = pytest.mark.anyio
_SECRET = "s3cr%40t"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mysql://host/db",
        "host=127.0.0.1",
        f"postgresql://a:{_SECRET}@[::1/db",
        "postgresql://h/d?nosuch=1",
        7,
        f"postgresql://a:{_SECRET}@h/d\ud800",
        f"postgresql://a:{_SECRET}@h/d\0b",
        f"postgresql://a:{_SECRET}@h:0/d",
        f"postgresql://a:{_SECRET}@h:65536/d",
        "postgresql://a:b@s3cr@h/d",
        "postgresql://a:12/s3cr@h/d",
    ],
)
@pytest.mark.parametrize("kind", [Cluster, PostgresStore])
async def test_a_url_must_be_one_of_postgresql(kind: type[Cluster | PostgresStore], url: str) -> None:
    """Other URLs are refused at once; neither text nor local variables repeat what may be a password."""
    with pytest.raises(ConfigurationError, match="postgresql://") as caught:
        kind(url)
    assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if "s3cr" in text]


@pytest.mark.parametrize("setting", ["", "?connect_timeout=hunter2", "?sslmode=hunter2", "?options=hunter2hunter2"])
@pytest.mark.parametrize("kind", [Cluster, PostgresStore])
async def test_a_database_that_is_not_there_does_not_show_the_password(
    kind: type[Cluster | PostgresStore], setting: str
) -> None:
    """No link of the error's chain, and no local variable of its frames, holds it; nor a setting that may be one."""
    url = f"postgresql://nairi:hunter2@127.0.0.1:{free_port()}/db{setting}"
    opened = kind(url)
    with pytest.raises((LedgerError, StoreError)) as caught:
        async with opened:
            pass
    assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if "hunter2" in text]
    with pytest.raises(TypeError, match="password"):
        pickle.dumps(opened._address)


@pytest.mark.parametrize("kind", [Cluster, PostgresStore])
async def test_a_cancelled_connection_does_not_show_the_password(kind: type[Cluster | PostgresStore]) -> None:
    """The cancellation passes through the driver, whose frames hold it."""
    async with RawServer(Act.HANG) as server:
        connecting = asyncio.ensure_future(
            connect(kind(server.url.replace("http://", "postgresql://a:hunter2@"))._address)
        )
        await until(lambda: server.connections)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await connecting
    assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if "hunter2" in text]


def test_a_text_of_the_database_is_one_short_line() -> None:
    """What a server says is shown without control characters, and not at any length."""
    said = str(Address.of(Concealed("postgresql://h/d")).explained(psycopg.DataError("\x1b[31m\n" + "a" * 9999)))
    assert said.isprintable()
    assert len(said) < 300


def test_an_error_of_the_database_keeps_what_the_caller_was_handling() -> None:
    """Only the driver's own error is taken out of the chain."""
    handled, address = KeyError("mine"), Address.of(Concealed("postgresql://h/d"))
    try:
        raise handled
    except KeyError:
        with pytest.raises(LedgerError) as caught, address.errors():
            raise psycopg.OperationalError("no") from None
    assert list(chain(caught.value)) == [caught.value, handled]


async def test_the_repr_of_what_was_refused_is_a_text() -> None:
    """Crash reporters call it for an object whose construction failed."""
    assert "Cluster" in repr(Cluster.__new__(Cluster))
    assert "PostgresStore" in repr(PostgresStore.__new__(PostgresStore))


async def test_a_database_that_cannot_be_used(postgres: Postgres) -> None:
    """No server, no such database, a wrong password, no rights: one error, without the password, from either store."""
    postgres.execute("CREATE ROLE guest LOGIN; CREATE ROLE safe LOGIN PASSWORD 'other'")
    rules = postgres.data / "pg_hba.conf"
    rules.write_text(f"host all safe all scram-sha-256\n{rules.read_text()}")
    postgres.execute("SELECT pg_reload_conf()")
    database = postgres.database().rpartition("/")[2]
    postgres.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    nowhere = f"postgresql://nairi:{_SECRET}@127.0.0.1:{free_port()}/db"
    cases = {
        nowhere: "cannot be reached",
        f"postgresql://nairi:{_SECRET}@a..b/db": "cannot be reached",
        postgres.url("missing", password=_SECRET): 'database "missing" does not exist',
        postgres.url(database, user="missing", password=_SECRET): 'role "missing" does not exist',
        postgres.url(database, user="safe", password=_SECRET): "refuses the user.*PGPASSWORD",
        postgres.url(database, user="guest", password=_SECRET): "rights",
        postgres.url(postgres.database().rpartition("/")[2], password=_SECRET)
        + "?options=-csearch_path%3Dnowhere": "no schema for the tables.*search_path",
        postgres.url("latin", password=_SECRET): "encoding is LATIN1.*UTF8",
        postgres.url(database, password=_SECRET) + "?client_encoding=latin1": None,
    }
    for url, text in cases.items():
        if text is None:
            async with Cluster(url), PostgresStore(url):
                continue
        with pytest.raises(LedgerError, match=text) as caught:
            async with Cluster(url):
                pass
        with pytest.raises(StoreError, match=text) as second:
            async with PostgresStore(url):
                pass
        for error in (*chain(caught.value), *chain(second.value)):
            assert "s3cr" not in str(error)
        assert _SECRET not in repr(Cluster(url)) + repr(PostgresStore(url))


async def test_a_database_of_another_program_or_version(postgres: Postgres) -> None:
    """Tables of another program, a newer or an older format, another queue: refused, and left as they are."""
    foreign = postgres.database()
    name = foreign.rpartition("/")[2]
    postgres.execute("CREATE TABLE theirs (id integer)", name)
    with pytest.raises(LedgerError, match="tables of another program"):
        async with Cluster(foreign):
            pass
    assert postgres.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", name) == [(1,)]
    url = postgres.database()
    name = url.rpartition("/")[2]
    async with Cluster(url), Cluster(url):
        pass
    changes = {
        "'2' WHERE name = 'format'": "newer version of nairi_async",
        "'0' WHERE name = 'format'": "older version",
        "'?' WHERE name = 'format'": "damaged",
        "'1' WHERE name = 'format'": None,
        "'x' WHERE name = 'queue'": "version of procrastinate",
    }
    for change, text in changes.items():
        postgres.execute("UPDATE nairi_meta SET value = " + change, name)  # noqa: S608 - ours
        if text is None:
            continue
        with pytest.raises(LedgerError, match=text):
            async with Cluster(url):
                pass


async def test_a_database_that_stops_answering(
    field: Field, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locked or dropped tables, and a server that is gone: after a bounded wait each call raises its documented error.

    Calls that were made meanwhile have waited as long: they do not wait once more, one after another. What is asked for
    afterwards works again, and nothing that was stored is lost.
    """
    name = field.database.rpartition("/")[2]
    gone = "does not answer|cannot be reached"
    address = Address.of(Concealed(field.database))
    async with field.cluster() as cluster, PostgresStore(field.database) as store, Database(address) as database:
        batch = await cluster.submit("run-1", AGENT, ["a"])
        await store.load("a")
        tried = set[int]()

        async def count(number: int, connection: psycopg.AsyncConnection[Any]) -> None:
            tried.add(number)
            await connection.execute("SELECT FROM nairi_batches")

        async def all_fail() -> None:
            for call in (lambda: cluster.submit("run-2", AGENT, ["a"]), batch.status, lambda: batch.turn("#1")):
                with pytest.raises(LedgerError, match=gone):
                    await call()
            with pytest.raises(LedgerError, match=gone):
                await anext(batch.outcomes())
            with pytest.raises(StoreError, match=gone):
                await store.load("a")

        with monkeypatch.context() as impatient:
            settings = ("database.PATIENCE", "database._LONGEST", "postgres_store.PATIENCE", "postgres_store._TIMEOUT")
            for setting in settings:
                impatient.setattr(f"nairi_async.cluster.{setting}", 0.3)
            with psycopg.connect(field.database) as blocker:
                blocker.execute("LOCK TABLE nairi_batches, nairi_items, nairi_readers, nairi_chats")
                await all_fail()
                calls = [database.run(partial(count, number)) for number in range(9)]
                assert {type(one) for one in await asyncio.gather(*calls, return_exceptions=True)} == {LedgerError}
                assert tried == {0}
                # While another process makes the tables.
                blocker.execute("SELECT pg_advisory_xact_lock(1312901458, -1)")
                with pytest.raises(LedgerError, match=gone):
                    await field.cluster().__aenter__()
            await asyncio.to_thread(postgres.crash)
            try:
                await all_fail()
            finally:
                # Other tests use the same server.
                await asyncio.to_thread(postgres.start)
        assert (await batch.status()).unsent == 1
        assert await store.load("a") is None
        postgres.execute("DROP TABLE procrastinate_jobs CASCADE", name)
        with pytest.raises(LedgerError, match="tables are not those"):
            await cluster.submit("run-2", AGENT, ["a"])
        postgres.execute("DELETE FROM nairi_batches WHERE name = 'run-1'", name)
        with pytest.raises(LedgerError, match="deleted"):
            await anext(batch.outcomes())


async def test_a_cluster_that_is_closed_or_belongs_to_another_loop(field: Field) -> None:
    """A call during or after closing, and from another loop, is refused at once; a worker is stopped first."""
    async with field.cluster() as cluster, field.session() as session, PostgresStore(field.database) as store:
        batch = await cluster.submit("run-1", AGENT, ["a", "b"])
        for elsewhere in (batch.status, lambda: store.load("a")):
            with pytest.raises(SessionClosedError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, elsewhere())
        working = asyncio.create_task(cluster.work(session))
        await field.until_asked(2)
        closing = asyncio.create_task(cluster.__aexit__(None, None, None))
        await closing
        assert await working == 2
        for call in (batch.status, lambda: batch.turn("#1")):
            with pytest.raises(SessionClosedError):
                await call()
        await cluster.__aenter__()
        status = await (await cluster.batch("run-1")).status()
        assert (status.running, status.in_doubt, status.workers) == (2, 0, ())


class Pooled:
    """A connection through a pooler that gives one session to all of its clients."""

    def __init__(self, session: psycopg.AsyncConnection[Any]) -> None:
        self.execute, self.transaction, self.cursor = session.execute, session.transaction, session.cursor

    async def close(self) -> None:
        pass


async def test_a_pooler_that_shares_sessions_is_refused(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a worker nor a bot's store takes a lock in a session that is not its own; batches are submitted."""
    async with await psycopg.AsyncConnection.connect(field.database, autocommit=True) as session:

        async def connect(_: object) -> Pooled:
            return Pooled(session)

        for module in ("database", "liveness", "postgres_store"):
            monkeypatch.setattr(f"nairi_async.cluster.{module}.connect", connect)
        async with field.cluster() as cluster, field.session() as nairi:
            await cluster.submit("run-1", AGENT, ["a"])
            with pytest.raises(LedgerError, match="pooler"):
                await cluster.work(nairi)
        with pytest.raises(StoreError, match="pooler"):
            async with PostgresStore(field.database):
                pass


class Ending(Database):
    """Ends all sessions that hold a worker's lock when the worker is about to be registered."""

    ended = 0

    async def run(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        if work.__name__ == "register":
            query = (
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks"
                " WHERE locktype = 'advisory' AND classid = 1312901458 AND objid > 0"
            )
            async with await psycopg.AsyncConnection.connect(self.address.conninfo, autocommit=True) as connection:
                self.ended += (await connection.execute(query)).rowcount
        return await super().run(work)


async def test_a_session_that_ends_as_its_worker_begins_is_no_pooler(field: Field) -> None:
    """Its lock is free then, as a pooler's would be; the worker tries again, as after any lost connection."""
    async with Ending(Address.of(Concealed(field.database))) as database:
        with pytest.raises(LedgerError, match="it cannot be reached") as caught:
            await Liveness.open(database, "http://localhost", 1, None)
        assert (type(caught.value), database.ended) == (LedgerError, 1)


async def test_a_cancelled_wait_for_a_texts_lock_leaves_none(field: Field, postgres: Postgres) -> None:
    """A lookup that is cancelled while it is given the lock lets go of it: other workers need not wait for its life."""
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = 77"

    async def hold(life: Liveness) -> None:
        async with life.text_lock(77):
            await asyncio.sleep(60)

    async with Database(Address.of(Concealed(field.database))) as database:
        life = await Liveness.open(database, "http://localhost", 1, None)
        for passes in range(1, 12):
            holding = asyncio.create_task(hold(life))
            for _ in range(passes):
                await asyncio.sleep(0)
            holding.cancel()
            await asyncio.wait([holding])
            assert holding.cancelled()
            assert postgres.execute(locks) == [(0,)]
        await life.aclose()


async def test_bad_arguments(field: Field) -> None:
    """Each bad argument and record is refused before anything is stored."""
    async with field.cluster() as cluster, field.session() as session:
        for records, text in (
            ("one", "iterable of prompts"),
            ([" "], "#1"),
            (["a", {"id": "x"}], "#2"),
            ([{"id": "x", "prompt": "a"}, {"id": "x", "prompt": "b"}], "twice"),
            ([{"prompt": "a", "attachments": ["file"]}], "attachments"),
            (["a\0b"], "zero byte"),
        ):
            with pytest.raises(InvalidArgumentError, match=text):
                await cluster.submit("run-1", AGENT, records)  # type: ignore[arg-type]
        assert await cluster.batches() == []
        for name in ("", "x" * 201, "a\nb", 7):
            with pytest.raises(InvalidArgumentError, match="name must be"):
                await cluster.submit(name, AGENT, ["a"])  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="on_unknown"):
            await cluster.submit("run-1", AGENT, ["a"], on_unknown="x")  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError):
            await cluster.work(session, limit=0)
        with pytest.raises(InvalidArgumentError, match="concurrency"):
            await cluster.work(session, concurrency=0)
        with pytest.raises(ConfigurationError):
            await cluster.work(session, requests_per_second=0)
        with pytest.raises(InvalidArgumentError, match="NairiSession"):
            await cluster.work("session")  # type: ignore[arg-type]
        batch = await cluster.submit("run-1", AGENT, ["a"])
        for id_ in (7, "a\0", "\ud800"):
            with pytest.raises(InvalidArgumentError, match="id must be"):
                await batch.turn(id_)  # type: ignore[arg-type]
        with pytest.raises(UnknownBatchError, match="no batch 'none'"):
            await cluster.batch("none")
    with pytest.raises(SessionClosedError):
        await cluster.batches()
    with pytest.raises(SessionClosedError):
        await PostgresStore(field.database).open_names()


@pytest.mark.parametrize("cancellations", [1, 2])
async def test_a_queue_that_is_stopped_while_its_database_is_away_leaves_nothing(cancellations: int) -> None:
    """The tasks of its pool end with it: they take no cancellation, so the end of the loop would wait for them."""
    before = asyncio.all_tasks()

    async def claim(_ticket: Ticket) -> None:
        await asyncio.sleep(0)

    address = Address.of(Concealed(f"postgresql://nairi@127.0.0.1:{free_port()}/nairi"))
    working = asyncio.create_task(TicketQueue(address, "http://127.0.0.1").work(claim))
    await until(lambda: len(asyncio.all_tasks() - before) > 3)
    for _ in range(cancellations):
        working.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await working
    assert asyncio.all_tasks() == before
