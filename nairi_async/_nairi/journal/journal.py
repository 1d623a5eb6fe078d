"""`Journal`: which key became which turn, in a file that outlives every process."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from sqlite3 import Error as SQLiteError
from typing import TYPE_CHECKING, Any, Final

from nairi_async._core.commit_thread import CommitThread, Submission
from nairi_async._core.sqlite_file import FileKind, StoredKeys
from nairi_async._nairi.delivery.fingerprint import PromptFingerprint
from nairi_async._nairi.journal.entry import Entry
from nairi_async.errors import JournalError
from nairi_async.models import Turn

if TYPE_CHECKING:
    from pathlib import Path
    from sqlite3 import Connection

    from nairi_async.clock import Clock

KIND: Final = FileKind(
    name="a session's journal",
    application_id=0x4E61_4A6F,  # "NaJo"
    version=1,
    schema=(
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
        """CREATE TABLE prompts (
            key TEXT PRIMARY KEY, request TEXT NOT NULL, agent_id TEXT, continued TEXT, previous TEXT,
            content BLOB NOT NULL, attachment_ids TEXT NOT NULL, sent_at REAL NOT NULL, job_id TEXT, message_id TEXT
        ) WITHOUT ROWID""",
        "CREATE INDEX prompts_sending ON prompts (content) WHERE job_id IS NULL",
        "CREATE INDEX prompts_started ON prompts (job_id) WHERE continued IS NULL",
        "CREATE INDEX prompts_messages ON prompts (message_id)",
    ),
    error=JournalError,
    another="name another file",
    again="try again",
    used_here="is in use by another session of this process: close it first, or give this one another journal",
    used_elsewhere="another process uses this journal: wait until it has ended, or give this one another journal",
)
"""The file of a journal. It holds digests of prompts, not their text."""


class JournalFile:
    """The open file. Everything blocks, and raises what SQLite raises; changes are durable from `commit` on."""

    def __init__(self, path: Path, base_url: str) -> None:
        self._path = path

        def set_up(connection: Connection, *, is_new: bool) -> None:
            if is_new:
                connection.execute("INSERT INTO meta VALUES ('base_url', ?)", (base_url,))
            (known,) = connection.execute("SELECT value FROM meta WHERE name = 'base_url'").fetchone()
            if known != base_url:
                raise JournalError(f"belongs to {known}, not to {base_url}: name another file", str(path))

        self._file = KIND.open(path, set_up)
        self._db = self._file.connection

    def begin(self) -> None:
        """Begin a transaction."""
        self._db.execute("BEGIN")

    def commit(self) -> None:
        """Make everything since `begin` durable."""
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        """Undo everything since `begin`, where SQLite has not done so itself."""
        with suppress(SQLiteError):
            self._db.execute("ROLLBACK")

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def find(self, key: str) -> Entry | None:
        """Return the entry of a key."""
        query = (
            "SELECT request, agent_id, continued, previous, content, attachment_ids, sent_at, job_id, message_id"
            " FROM prompts WHERE key = ?"
        )
        row = self._db.execute(query, (key,)).fetchone()
        return None if row is None else _entry(key, row)

    def write(self, entry: Entry) -> None:
        """Store an entry, in place of what the key had."""
        turn = entry.turn
        values = (
            entry.key, entry.request, entry.agent_id, entry.fingerprint.job_id, entry.previous,
            entry.fingerprint.content, json.dumps(entry.attachment_ids), entry.sent_at,
            None if turn is None else turn.job_id, None if turn is None else turn.message_id,
        )  # fmt: skip
        self._db.execute("INSERT OR REPLACE INTO prompts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def forget(self, key: str) -> None:
        """Free a key: its prompt provably does not run. A turn is never forgotten."""
        self._db.execute("DELETE FROM prompts WHERE key = ? AND job_id IS NULL", (key,))

    def count_sending(self, fingerprint: PromptFingerprint) -> int:
        """Return how many prompts with this fingerprint are `sending`."""
        query = "SELECT count(*) FROM prompts WHERE job_id IS NULL AND content = ? AND continued IS ?"
        found = self._db.execute(query, (fingerprint.content, fingerprint.job_id)).fetchone()
        return int(found[0])


class Journal(CommitThread[JournalFile]):
    """A journal, used from one event loop. A failed write affects the calls that it was for, and no later ones."""

    def __init__(self, path: Path, clock: Clock, base_url: str) -> None:
        super().__init__(KIND, path, clock, ends_on_failure=False)
        self._base_url = base_url
        self._views: list[StoredKeys] = []

    def open_database(self) -> JournalFile:
        """Open the file; called in the thread."""
        file = JournalFile(self._path, self._base_url)
        try:
            for condition in ("continued IS NULL AND job_id = :value", "message_id = :value"):
                query = f"SELECT 1 FROM prompts WHERE {condition}"  # noqa: S608 - ours
                self._views.append(StoredKeys(KIND, self._path, query))
        except BaseException:
            file.close()
            raise
        return file

    def after_close(self) -> None:
        """Close the connections that only read; called in the thread."""
        for view in self._views:
            view.close()

    async def find(self, key: str) -> Entry | None:
        """Return the entry of a key."""
        return await self.submit(partial(JournalFile.find, key=key))

    def write(self, entry: Entry) -> Submission[None]:
        """Submit an entry; awaited, it is durable."""
        return self.submit(partial(JournalFile.write, entry=entry))

    def forget(self, key: str) -> None:
        """Free a key: its prompt provably does not run."""
        self.submit(partial(JournalFile.forget, key=key))

    async def count_sending(self, fingerprint: PromptFingerprint) -> int:
        """Return how many prompts with this fingerprint are `sending`."""
        return await self.submit(partial(JournalFile.count_sending, fingerprint=fingerprint))

    @property
    def conversations(self) -> StoredKeys:
        """The conversations that the prompts of the journal have started, as a container of job ids."""
        return self._views[0]

    @property
    def messages(self) -> StoredKeys:
        """The turns of all prompts of the journal, as a container of message ids."""
        return self._views[1]


def _entry(key: str, row: tuple[Any, ...]) -> Entry:
    request, agent_id, continued, previous, content, attachment_ids, sent_at, job_id, message_id = row
    return Entry(
        key=key,
        request=request,
        agent_id=agent_id,
        fingerprint=PromptFingerprint(continued, content),
        sent_at=sent_at,
        attachment_ids=tuple(json.loads(attachment_ids)),
        previous=previous,
        turn=None if job_id is None else Turn(job_id, message_id, agent_id=agent_id),
    )
