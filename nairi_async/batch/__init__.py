r"""Many prompts that survive the process: a ledger on disk, from which the next process resumes.

A batch keeps a ledger, an SQLite file. Each prompt is in it before it is sent, and each result before it is
handed over. Kill the process at any time, and run the same program again. A program may also continue after an error
or a cancellation, and run the batch again with the same session:

```python
import asyncio

from nairi_async import NairiSession
from nairi_async.batch import Batch


async def main() -> None:
    questions = ({"id": f"ticket-{number}", "prompt": f"Summarise ticket {number}."} for number in range(20))
    async with (
        NairiSession() as nairi,
        Batch(nairi, "my-agent", questions, ledger="run.sqlite", output="replies.jsonl") as outcomes,
    ):
        async for outcome in outcomes:
            print(outcome.id, outcome.reply.text if outcome.reply else outcome.error)
        print(outcomes.status)


asyncio.run(main())
```

A record may hold several turns of one conversation, each sent when the turn before it has completed, and resumed in
the middle; or continue a conversation, by its `job_id`. Its other keys come back, in `outcome.fields` and in the line
of the output. What cannot be used is said first, and the rest runs: here four of a hundred lines are bad.

```python
import asyncio
import json
from pathlib import Path

from nairi_async import NairiSession
from nairi_async.batch import Batch, JsonLines

GOOD = [{"id": n, "prompts": [f"Summarise ticket {n}.", "In French?"][: 1 + (n < 9)], "team": "A"} for n in range(96)]
BAD = [{"prompt": " "}, {"promt": "misspelt"}, {"id": 7, "prompt": "an id twice"}, {"prompt": "hm", "job_id": None}]


async def main() -> None:
    Path("tickets.jsonl").write_text("\n".join(map(json.dumps, GOOD + BAD)), encoding="utf-8")
    with Path("tickets.jsonl").open("rb") as file:
        async with (
            NairiSession() as nairi,
            Batch(nairi, "my-agent", JsonLines(file), ledger="run.sqlite", output="replies.jsonl") as outcomes,
        ):
            async for outcome in outcomes:
                if outcome.error is not None:
                    print(outcome.id, outcome.error)
            assert (outcomes.status.done, outcomes.status.unusable) == (96, 4)


asyncio.run(main())
```

With `into=Invoice` each reply is data, `outcome.reply.value`, as for `NairiSession.ask`; `repair=1` sends one follow-up
in the same conversation to a reply that does not fit. `nairi_async.format_instructions(Invoice)` is a text for the
prompt that asks for such a reply.

What the next run does:

* **What has ended is not asked again.** Your code sees each outcome at least once: the one that it was handling when
  the process ended comes again. The output file has it exactly once.
* **What was running is awaited.**
* **What was being sent is looked up.** If its turn is found, it is awaited. If the prompt was provably not run, a
  minute after it was sent, it is asked. If neither is certain, it is reported, and the next run looks it up again. It
  is never simply sent again.
* **A record is recognised** by its `id`. Without one, it is recognised by its prompts and attachments, at any place in
  the source, and outcomes name it by its place, such as `#3`. Identical records without an id are separate items: each
  is asked once. A list or a file with other prompts than the ledger's is refused before anything is asked: both
  contain records without an id, and none in common.
* **What cannot be used is said first.** A list, or a file as `JsonLines`, is checked as a whole before anything is
  asked: unreadable lines, misspelt keys such as `attachements`, an id that is there twice, a prompt that changed after
  it was asked. Errors of a generator come at their places.
* **Memory does not grow with the number of prompts**: the source is read as far as there is capacity.
* **Each end is one line of `output`**, also after a crash in the middle of a line. `outcome.is_final` says whether
  the ledger holds an end. If it is false, the next run resumes: it waits for a turn that outlasted its `timeout`, and
  asks a prompt that a busy service did not take. A record that could not be used has to be corrected first.

What is refused: a second process on the same ledger; a ledger of another agent or another service (a ledger filled by
the simulator is refused for the real service); a ledger of another user, or one that others can write. Ledger and
output are created for their owner alone (0600). Records may name any file that this process can read, to be uploaded:
if they come from others, give `attachments_from`, the directory in which attachments must lie.

The minute is `settle`. A service that lists a conversation later than that could run its prompt twice;
`on_unknown="report"` leaves such prompts to you.

Next to a ledger `run.sqlite` lie `run.sqlite-lock`, which keeps a second process out, and, while a batch runs or
after a kill, `run.sqlite-wal` (the newest entries) and `run.sqlite-shm` (their index). To move or copy a batch, stop
it and take `run.sqlite` and, if it is there, `run.sqlite-wal`: without it the newest prompts are forgotten, and would
run again. To start over, delete them all and the output, which is appended to. A network file system without locks
cannot hold a ledger.

From a shell, with a progress bar, from lines of JSON (a string, or an object with `prompt` or `prompts`, and optionally
`id`, `attachments`, `job_id` and keys of your own), a table with such columns (`.csv`, `.tsv`), or plain text, one
prompt a line (`.txt`):

```console
$ nairi-async batch prompts.jsonl --check --ledger run.sqlite
$ nairi-async batch prompts.jsonl --agent my-agent --ledger run.sqlite --output replies.jsonl --limit 200
$ nairi-async batch --status --ledger run.sqlite
```

Ctrl-C loses nothing and shows how to resume. Exit status 3 means that some failed or could not be used; 5 that some
have not ended, and the same command resumes. `--retry-failed` asks again what failed.
"""

from __future__ import annotations

from nairi_async.batch.batch import Batch
from nairi_async.batch.item_runner import BatchOnUnknown
from nairi_async.batch.items import BatchItem, BatchOutcome, BatchStatus, UnusableItem
from nairi_async.batch.jsonl import JsonLines
from nairi_async.batch.ledger_views import read_status
from nairi_async.batch.text_files import CsvRows, TextLines

__all__ = [
    "Batch",
    "BatchItem",
    "BatchOnUnknown",
    "BatchOutcome",
    "BatchStatus",
    "CsvRows",
    "JsonLines",
    "TextLines",
    "UnusableItem",
    "read_status",
]
