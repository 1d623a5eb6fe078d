"""Batches over many processes and machines, over one PostgreSQL database."""

from __future__ import annotations

from nairi_async.cluster.batches import ClusterStatus, WorkerStatus
from nairi_async.cluster.cluster import Cluster, ClusterBatch, Outcomes

__all__ = ["Cluster", "ClusterBatch", "ClusterStatus", "Outcomes", "WorkerStatus"]
