"""Many prompts that survive the process: a ledger on disk, from which the next process goes on."""

from __future__ import annotations

from nairi_async.batch.batch import Batch
from nairi_async.batch.items import BatchItem, BatchOutcome, BatchStatus, UnusableItem
from nairi_async.batch.jsonl import JsonLines
from nairi_async.batch.ledger_views import read_status
from nairi_async.batch.run import BatchOnUnknown

__all__ = [
    "Batch",
    "BatchItem",
    "BatchOnUnknown",
    "BatchOutcome",
    "BatchStatus",
    "JsonLines",
    "UnusableItem",
    "read_status",
]
