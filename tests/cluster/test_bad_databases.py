"""What is refused, in one sentence, before anything is sent: URLs, databases, versions, rights, records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from clusters import AGENT
from support import chain, free_port

from nairi_async import ConfigurationError, InvalidArgumentError, SessionClosedError
from nairi_async.cluster import Cluster, PostgresStore
from nairi_async.errors import LedgerError, StoreError

if TYPE_CHECKING:
    from clusters import Field
    from postgres import Postgres

pytestmark = pytest.mark.anyio
_SECRET = "s3cr%40t"


@pytest.mark.parametrize(
    "url",
    ["", "mysql://host/db", "host=127.0.0.1", f"postgresql://a:{_SECRET}@[::1/db", "postgresql://h/d?nosuch=1", 7],
)
async def test_a_url_must_be_one_of_postgresql(url: str) -> None:
    """Other URLs are refused at once, and the text does not repeat what may be a password."""
    with pytest.raises(ConfigurationError, match="postgresql://") as caught:
        Cluster(url)
    assert not any("s3cr" in str(error) for error in chain(caught.value))


async def test_a_database_that_cannot_be_used(postgres: Postgres) -> None:
    """No server, no such database, a wrong password, no rights: one error, without the password, from either store."""
    postgres.execute("CREATE ROLE guest LOGIN")
    database = postgres.database().rpartition("/")[2]
    nowhere = f"postgresql://nairi:{_SECRET}@127.0.0.1:{free_port()}/db"
    cases = {
        nowhere: "cannot be reached",
        postgres.url("missing", password=_SECRET): 'database "missing" does not exist',
        postgres.url(database, user="guest", password=_SECRET): "rights",
    }
    for url, text in cases.items():
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
        with pytest.raises(ConfigurationError):
            await cluster.work(session, requests_per_second=0)
        with pytest.raises(InvalidArgumentError, match="NairiSession"):
            await cluster.work("session")  # type: ignore[arg-type]
        with pytest.raises(LedgerError, match="no batch 'none'"):
            await cluster.batch("none")
    with pytest.raises(SessionClosedError):
        await cluster.batches()
    with pytest.raises(SessionClosedError):
        await PostgresStore(field.database).open_names()
