"""Files that other users of the machine can neither read nor plant: created with mode 0600, checked before use."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from nairi_async.errors import ConfigurationError, InvalidArgumentError

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def create_private(path: str | os.PathLike[str]) -> None:
    """Create an empty file that only its owner can read and write; leave an existing one as it is.

    SQLite gives the files that it creates next to a database the mode of the database.

    Raises:
        OSError: the file cannot be created.
    """
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return
    os.close(handle)


def check_private(path: str | os.PathLike[str]) -> None:
    """Refuse a file that another user owns or may write: its content may be planted.

    Raises:
        PermissionError: it is such a file.
        OSError: it cannot be examined.
    """
    if not hasattr(os, "geteuid"):
        return  # Windows has no such modes.
    status = Path(path).stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{os.fspath(path)!r} belongs to another user: use a file of your own")
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise PermissionError(f"other users may write {os.fspath(path)!r}: remove that right with `chmod 600`")


def setting_path(name: str, given: str | os.PathLike[str]) -> Path:
    """Return the resolved path of a setting.

    Raises:
        ConfigurationError: it is not a path, or cannot be resolved.
    """
    try:
        return resolved_path(given)
    except InvalidArgumentError as error:
        raise ConfigurationError(f"{name}: {error.message}") from error


def resolved_path(path: str | os.PathLike[str]) -> Path:
    """Return the resolved path: two ways to a file are one file.

    Raises:
        InvalidArgumentError: it is not a path, or cannot be resolved.
    """
    try:
        return Path(path).resolve()
    except TypeError as error:
        raise InvalidArgumentError(f"a path is needed, not {type(path).__name__}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidArgumentError(f"{os.fspath(path)!r} cannot be resolved: {error}") from error
