"""A file that was downloaded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from anyio import to_thread
from attrs import field

from nairi_async._core.exports import publish
from nairi_async._core.files import safe_name, write_new
from nairi_async._core.records import frozen
from nairi_async.errors import AttachmentExistsError

if TYPE_CHECKING:
    import os
    from pathlib import Path


@frozen(kw_only=True)
class Attachment:
    """A file stored by the service."""

    id: str
    """Id of the file."""
    filename: str
    """The name as it was uploaded. The service does not clean it, so it is not safe as a path."""
    data: bytes = field(repr=False)
    """The content."""

    async def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the file into a directory, and return its path.

        The name is made safe: directories and drives are removed, characters that are special to a system become `_`,
        and an empty name becomes the id. Other programs see the whole file or none. A link of that name is replaced,
        not followed.

        Args:
            directory: Where to write; it is created if it is missing.
            overwrite: Replace a file of that name.

        Raises:
            AttachmentExistsError: there is a file of that name, and `overwrite` is false.
            OSError: the file could not be written.
        """
        name = safe_name(self.filename, self.id)
        write = partial(write_new, directory, name, self.data, overwrite=overwrite)
        try:
            return await to_thread.run_sync(write)
        except FileExistsError as error:
            raise AttachmentExistsError(f"{name!r} exists already; give overwrite=True to replace it") from error


publish(__name__)
