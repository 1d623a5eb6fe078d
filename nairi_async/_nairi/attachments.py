"""Uploads and downloads of attachments, a few at a time (https://nairi.ai/docs/api/attachments)."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from anyio import to_thread

from nairi_async._core import checks
from nairi_async._core.address import path
from nairi_async._core.fan_out import gather_limited
from nairi_async._core.request import Request
from nairi_async._nairi.wire import decode_attachment_id
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from nairi_async._core.executor import RequestExecutor
    from nairi_async._core.upload import Upload
    from nairi_async._nairi.attachment import Attachment
    from nairi_async.typing import Source, UploadProgress

AT_ONCE: Final = 4
"""Files that one call transfers at a time: more would share the same bandwidth and hold more memory."""
MIN_BYTES_PER_SECOND: Final = 256 * 1024
"""The slowest transfer that does not time out; the session's `request_timeout` is added."""

_BYTES: Final = (bytes, bytearray, memoryview)
# Bytes that are hashed without a thread.
_HASHED_AT_ONCE: Final = 1 << 20
# The base64 of the largest file, its name, and fields that the service may add.
_MAX_BODY: Final = 72 * 1024 * 1024


class Files:
    """Uploads and downloads of one session."""

    def __init__(self, executor: RequestExecutor) -> None:
        self._executor = executor

    async def prepare(
        self,
        source: object,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        progress: UploadProgress | None = None,
    ) -> Upload:
        """Inspect a source and return its upload; raise `InvalidArgumentError` if it cannot be uploaded."""
        from nairi_async._core.upload import Upload  # noqa: PLC0415 - many programs transfer no file

        async with self.real_work():
            return await Upload.prepare(source, filename=filename, content_type=content_type, progress=progress)

    def real_work(self) -> AbstractAsyncContextManager[object]:
        """Return a context in which a virtual clock stands still: it does not see what a thread does."""
        return self._executor.clock.timeout(math.inf)

    async def upload(self, upload: Upload, timeout: float | None = None, *, deadline: float = math.inf) -> str:
        """Upload a file and return the id of the attachment."""
        from nairi_async._core.upload import MAX_ATTACHMENT_BYTES  # noqa: PLC0415 - as above

        size = MAX_ATTACHMENT_BYTES if upload.file_size is None else upload.file_size
        # Idempotent: a lost response leaves an attachment that no prompt names.
        request = Request(
            method="POST", path=path("attachments"), body=upload, timeout=timeout or self._allowance(size)
        )
        return await self._executor.call(request, decode_attachment_id, deadline=deadline)

    async def download(self, attachment_id: str, timeout: float | None = None) -> Attachment:
        """Download a file."""
        from nairi_async._nairi.attachment_scanner import AttachmentScanner  # noqa: PLC0415 - as above

        scanner = AttachmentScanner()

        def sink() -> AttachmentScanner:
            # A new one for each attempt: what was read of a broken response is dropped.
            nonlocal scanner
            scanner = AttachmentScanner()
            return scanner

        def decode(_body: bytes) -> Attachment:
            return scanner.attachment()

        request = Request(
            method="GET",
            path=path("attachments", attachment_id),
            sink=sink,
            max_body=_MAX_BODY,
            timeout=timeout or self._allowance(_MAX_BODY),
        )
        return await self._executor.call(request, decode)

    async def fetch(self, attachment_ids: Sequence[str]) -> list[Attachment]:
        """Download several files; return them in the order of the ids."""
        return await gather_limited(
            [partial(self.download, attachment_id) for attachment_id in attachment_ids], at_once=AT_ONCE
        )

    def pending(self, attachments: Iterable[Source], attachment_ids: Iterable[str]) -> PendingUploads:
        """Return the attachments of one prompt, not yet uploaded.

        Raises:
            InvalidArgumentError: they are more than a prompt can carry, or something is no source.
        """
        ids = checks.attachment_ids(attachment_ids)
        sources = _sources(attachments)
        if len(ids) + len(sources) > checks.MAX_ATTACHMENTS:
            raise InvalidArgumentError(
                f"{len(ids) + len(sources)} attachments: a prompt can carry at most {checks.MAX_ATTACHMENTS}"
            )
        return PendingUploads(self, ids, sources)

    def _allowance(self, size: int) -> float:
        return self._executor.request_timeout + size / MIN_BYTES_PER_SECOND


class PendingUploads:
    """The attachments of one prompt. All are checked before the first upload, and each is uploaded once."""

    def __init__(self, files: Files, ids: tuple[str, ...], sources: tuple[Source, ...]) -> None:
        self._files = files
        self._ids = ids
        self._sources = sources
        self._uploads: list[Upload] = []
        self._uploaded: dict[int, str] = {}

    async def digest(self) -> str:
        """Return what identifies the files: their ids, paths or bytes. Files that can be read once have no identity."""
        known = [None if isinstance(source, _BYTES) else _name_of(source) for source in self._sources]
        content = [bytes(source) for source in self._sources if isinstance(source, _BYTES)]

        def compute() -> str:
            digest = hashlib.blake2b(json.dumps([self._ids, known]).encode(), digest_size=16)
            for data in content:
                digest.update(hashlib.blake2b(data, digest_size=16).digest())
            return digest.hexdigest()

        is_small = sum(map(len, content)) < _HASHED_AT_ONCE
        if is_small:
            return compute()
        async with self._files.real_work():
            return await to_thread.run_sync(compute)

    async def ids(self, *, deadline: float = math.inf) -> tuple[str, ...]:
        """Upload what was not uploaded yet, a few files at a time, and return all ids of the prompt."""
        if len(self._uploads) < len(self._sources):
            self._uploads = [await self._files.prepare(source) for source in self._sources]
        missing = [index for index in range(len(self._uploads)) if index not in self._uploaded]
        await gather_limited([partial(self._upload, index, deadline) for index in missing], at_once=AT_ONCE)
        return (*self._ids, *(self._uploaded[index] for index in range(len(self._uploads))))

    async def _upload(self, index: int, deadline: float) -> None:
        upload = self._uploads[index]
        if upload.is_spent:
            raise InvalidArgumentError("a stream that was read in part cannot be read again; give a new one")
        self._uploaded[index] = await self._files.upload(upload, deadline=deadline)


def _name_of(source: Source) -> str:
    return f"path {os.fsdecode(source)}" if isinstance(source, str | os.PathLike) else "stream"


def _sources(attachments: object) -> tuple[Source, ...]:
    single = (str, bytes, bytearray, memoryview, os.PathLike, Mapping)
    if isinstance(attachments, single) or hasattr(attachments, "read") or not isinstance(attachments, Iterable):
        raise InvalidArgumentError("attachments must be a sequence of sources, not a single one")
    sources = tuple(attachments)
    read_once = [id(source) for source in sources if not isinstance(source, single)]
    if len(set(read_once)) < len(read_once):
        raise InvalidArgumentError("attachments names the same file object twice")
    return sources
