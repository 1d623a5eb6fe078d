"""The tables, their version, and whose database it is.

A database belongs to one format of the tables and one schema of the queue. A process that knows another one refuses it,
so that all processes on a database agree.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, LiteralString

from nairi_async.errors import LedgerError

if TYPE_CHECKING:
    import psycopg

    from nairi_async.cluster.address import Address

FORMAT: Final = 1
"""Version of the tables, which each process compares; see `_check_versions`."""
LOCKS: Final = 0x4E41_4952
"""The first half of our advisory locks ("NAIR"); the second is a worker's id, or one of these:"""
SWEEP_LOCK: Final = 0
SCHEMA_LOCK: Final = -1
TEXT_LOCKS: Final = 0x4E41_4953
"""The first half of the locks around lookups; the second is a hash of the prompt."""
SLOT_LOCKS: Final = 0x4E41_4955
"""The first half of the locks under which a service's running items are counted; the second is a hash of its URL."""
CHAT_LOCKS: Final = 0x4E41_4954
"""The first half of the locks of chats; the second is a hash of the chat's name."""

# What is written once, a prompt, a turn, an outcome, stands in tables that are only added to. What changes as an item
# runs stands in a narrow one, see `stored_rows`.
_TABLES: Final[LiteralString] = """
CREATE TABLE nairi_meta (name text PRIMARY KEY, value text NOT NULL);
CREATE SEQUENCE nairi_worker_ids AS integer;
CREATE TABLE nairi_workers (
    id integer PRIMARY KEY, base_url text NOT NULL, host text NOT NULL, pid integer NOT NULL,
    backend integer NOT NULL, capacity integer NOT NULL, per_second float8,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE nairi_batches (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE,
    agent_id text NOT NULL, base_url text NOT NULL, ask_mode boolean NOT NULL, timeout float8 NOT NULL,
    on_unknown text NOT NULL, settle float8 NOT NULL, items bigint NOT NULL DEFAULT 0,
    done bigint NOT NULL DEFAULT 0, failed bigint NOT NULL DEFAULT 0,
    last_sequence bigint NOT NULL DEFAULT 0, cost_usd numeric NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE nairi_prompts (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch bigint NOT NULL REFERENCES nairi_batches ON DELETE CASCADE,
    key text NOT NULL, id text NOT NULL, place bigint NOT NULL, prompt text NOT NULL, fields text NOT NULL,
    UNIQUE (batch, key), UNIQUE (batch, id)
);
CREATE TABLE nairi_items (
    number bigint PRIMARY KEY, batch bigint NOT NULL, prompt_hash integer NOT NULL,
    state text NOT NULL DEFAULT 'unsent', owner integer, claim integer NOT NULL DEFAULT 0,
    is_in_doubt boolean NOT NULL DEFAULT false, sent_at float8, lost_at float8,
    job_id text, message_id text, parked integer NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE INDEX nairi_items_owned ON nairi_items (owner, prompt_hash) WHERE owner IS NOT NULL;
CREATE INDEX nairi_items_lost ON nairi_items (prompt_hash) WHERE lost_at IS NOT NULL;
CREATE TABLE nairi_turns (
    job_id text PRIMARY KEY, number bigint NOT NULL, batch bigint NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX nairi_turns_recorded ON nairi_turns (recorded_at);
CREATE TABLE nairi_outcomes (
    batch bigint NOT NULL, sequence bigint NOT NULL, number bigint NOT NULL, document text NOT NULL,
    ended_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (batch, sequence)
);
CREATE TABLE nairi_readers (
    batch bigint NOT NULL REFERENCES nairi_batches ON DELETE CASCADE, reader text NOT NULL, sequence bigint NOT NULL,
    PRIMARY KEY (batch, reader)
);
CREATE TABLE nairi_rates (base_url text PRIMARY KEY, next timestamptz NOT NULL);
CREATE TABLE nairi_chats (
    name text PRIMARY KEY, dialogue_id text, is_unfinished boolean NOT NULL, record text NOT NULL
);
CREATE INDEX nairi_chats_unfinished ON nairi_chats (name) WHERE is_unfinished;
"""
# The second, of a server that was installed where no language is set, stores what it is given.
_ENCODINGS: Final = frozenset({"UTF8", "SQL_ASCII"})
_OTHERS: Final[LiteralString] = (
    "SELECT count(*) FROM pg_catalog.pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
)


async def check_schema(connection: psycopg.AsyncConnection[Any], address: Address) -> None:
    """Make the tables in an empty database; refuse another program's, and another version's.

    Raises:
        LedgerError: it is refused.
        psycopg.Error: the database could not be asked.
    """
    # What a version of this library once made stays; one process at a time looks, and makes it.
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, SCHEMA_LOCK))
        found = await (await connection.execute("SELECT to_regclass('nairi_meta') IS NOT NULL")).fetchone()
        if not (found and found[0]):
            others = await (await connection.execute(_OTHERS)).fetchone()
            if others and others[0]:
                raise LedgerError(
                    "it holds the tables of another program; create a database for the cluster alone", address.name
                )
            encoding = await (await connection.execute("SHOW server_encoding")).fetchone()
            if encoding and encoding[0] not in _ENCODINGS:
                text = f"its encoding is {encoding[0]}, which cannot store every text; create it with ENCODING 'UTF8'"
                raise LedgerError(f"{text} TEMPLATE template0", address.name)
            await _create(connection)
            return
        rows = await (await connection.execute("SELECT name, value FROM nairi_meta")).fetchall()
        _check_versions(dict(rows), address)


async def _create(connection: psycopg.AsyncConnection[Any]) -> None:
    queue = _queue_schema()
    await connection.execute(queue)
    await connection.execute(_TABLES)
    insert = "INSERT INTO nairi_meta VALUES ('format', %s), ('tables', %s), ('queue', %s)"
    await connection.execute(insert, (str(FORMAT), _digest(_TABLES), _digest(queue)))


def _check_versions(meta: dict[str, str], address: Address) -> None:
    try:
        found = int(meta["format"])
    except (LookupError, ValueError):
        raise LedgerError("its table nairi_meta is damaged", address.name) from None
    if found > FORMAT:
        text = f"it has format {found} of a newer version of nairi_async; this one knows {FORMAT}: upgrade this process"
        raise LedgerError(text, address.name)
    if found < FORMAT:
        raise LedgerError(f"it has format {found} of an older version; finish it with that version", address.name)
    if meta.get("tables") != _digest(_TABLES):
        text = "its tables were made by another version of nairi_async; finish it with that version"
        raise LedgerError(text, address.name)
    if meta.get("queue") != _digest(_queue_schema()):
        text = "its queue was made by another version of procrastinate; install the version that the others have"
        raise LedgerError(text, address.name)


def _queue_schema() -> LiteralString:
    # Not with this module: see `tickets`.
    from procrastinate.schema import SchemaManager  # noqa: PLC0415

    return SchemaManager.get_schema()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
