"""The attachments of a session: uploads and downloads, some at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from nairi_async._core import checks
from nairi_async._core.address import path
from nairi_async._core.fan_out import gather_limited
from nairi_async._core.request import Request
from nairi_async._core.upload import MAX_ATTACHMENT_BYTES, Upload
from nairi_async._nairi.attachment_scanner import AttachmentScan
from nairi_async._nairi.wire import decode_attachment_id
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.results import Attachment
    from nairi_async.typing import Source

AT_ONCE: Final = 4
"""Files under way at a time in one call: more would only share the line, and hold more memory."""
SLOWEST: Final = 256 * 1024
"""Bytes a second that a transfer is allowed to take, beyond the session's `request_timeout`."""

# The base64 of the largest file, with room for its name and what else the service may say.
_LARGEST_BODY: Final = 72 * 1024 * 1024


class Files:
    """Uploads and downloads of one session."""

    def __init__(self, executor: RequestExecutor) -> None:
        self._executor = executor

    async def upload(self, upload: Upload, timeout: float | None = None, *, deadline: float = math.inf) -> str:
        """Send a file; returns the id of the attachment."""
        size = MAX_ATTACHMENT_BYTES if upload.file_size is None else upload.file_size
        # Twice uploaded is not twice used: a lost answer leaves a file that nobody names.
        request = Request(
            method="POST", path=path("attachments"), body=upload, timeout=timeout or self._allowance(size)
        )
        return await self._executor.call(request, decode_attachment_id, deadline=deadline)

    async def download(self, attachment_id: str, timeout: float | None = None) -> Attachment:
        """Fetch a file."""
        scan = AttachmentScan()

        def sink() -> AttachmentScan:
            # One for each attempt: what came of a broken answer is let go.
            nonlocal scan
            scan = AttachmentScan()
            return scan

        def decode(_body: bytes) -> Attachment:
            return scan.attachment()

        request = Request(
            method="GET",
            path=path("attachments", attachment_id),
            sink=sink,
            max_body=_LARGEST_BODY,
            timeout=timeout or self._allowance(_LARGEST_BODY),
        )
        return await self._executor.call(request, decode)

    async def fetch(self, attachment_ids: Sequence[str]) -> list[Attachment]:
        """Download several files, in their order."""
        return await gather_limited(
            [partial(self.download, attachment_id) for attachment_id in attachment_ids], at_once=AT_ONCE
        )

    def pending(self, attachments: Iterable[Source], attachment_ids: Iterable[str]) -> PendingUploads:
        """The attachments of one prompt; refused where they are too many or no sources at all."""
        ids = checks.attachment_ids(attachment_ids)
        sources = _sources(attachments)
        if len(ids) + len(sources) > checks.MAX_ATTACHMENTS:
            raise InvalidArgumentError(
                f"{len(ids) + len(sources)} attachments: the service takes at most {checks.MAX_ATTACHMENTS}"
            )
        return PendingUploads(self, ids, sources)

    def _allowance(self, size: int) -> float:
        return self._executor.request_timeout + size / SLOWEST


class PendingUploads:
    """The files of one prompt: checked all before the first is sent, and each sent once however often it is asked."""

    def __init__(self, files: Files, ids: tuple[str, ...], sources: tuple[Source, ...]) -> None:
        self._files = files
        self._ids = ids
        self._sources = sources
        self._uploads: list[Upload] = []
        self._done: dict[int, str] = {}

    async def ids(self, *, deadline: float = math.inf) -> tuple[str, ...]:
        """All ids that the prompt carries, after what was not uploaded yet has been, some at a time."""
        if len(self._uploads) < len(self._sources):
            self._uploads = [await Upload.prepare(source) for source in self._sources]
        missing = [index for index in range(len(self._uploads)) if index not in self._done]
        await gather_limited([partial(self._upload, index, deadline) for index in missing], at_once=AT_ONCE)
        return (*self._ids, *(self._done[index] for index in range(len(self._uploads))))

    async def _upload(self, index: int, deadline: float) -> None:
        upload = self._uploads[index]
        if upload.is_spent:
            raise InvalidArgumentError("a stream was sent before, in part or in whole, and cannot be read again")
        self._done[index] = await self._files.upload(upload, deadline=deadline)


def _sources(attachments: object) -> tuple[Source, ...]:
    single = (str, bytes, bytearray, memoryview, os.PathLike, Mapping)
    if isinstance(attachments, single) or hasattr(attachments, "read") or not isinstance(attachments, Iterable):
        raise InvalidArgumentError("attachments is a sequence of paths, bytes, files or streams, not a single value")
    sources = tuple(attachments)
    read_once = [id(source) for source in sources if not isinstance(source, single)]
    if len(set(read_once)) < len(read_once):
        raise InvalidArgumentError("the same file object stands twice among the attachments")
    return sources
