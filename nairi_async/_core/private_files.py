"""Files that other users of the machine can neither read nor plant: created with mode 0600, checked before use."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from nairi_async.errors import ConfigurationError, InvalidArgumentError

_PRIVATE: Final = 0o600
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def create_private(path: str | os.PathLike[str]) -> None:
    """Create an empty file that only its owner can read and write; leave an existing one as it is.

    SQLite gives the files that it creates next to a database the mode of the database. The file gets its name only
    after it was closed: closing a file would release the locks that SQLite holds on it.

    Raises:
        OSError: the file cannot be created.
    """
    path = Path(path)
    if path.exists():
        return
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _create(part)
    except OSError as error:
        # The name that the caller knows.
        error.filename = os.fspath(path)
        raise
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    except (OSError, NotImplementedError):
        # A file system (OSError) or platform (NotImplementedError) without links: another thread that opens the same
        # new file at this instant is the risk.
        with suppress(FileExistsError):
            _create(path)
    finally:
        part.unlink()


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _PRIVATE))


def exposure(path: str | os.PathLike[str]) -> Literal["foreign", "link", "writable"] | None:
    """Return why the content of a file may be planted: another user owns it or may write it; `None` if neither.

    A resolved path is no link, and next to a file of ours there is none: it would lead what is written elsewhere.

    Raises:
        OSError: it cannot be examined.
    """
    if not hasattr(os, "geteuid"):
        return None  # Windows has no such modes.
    status = Path(path).lstat()
    if status.st_uid != os.geteuid():
        return "foreign"
    if stat.S_ISLNK(status.st_mode):
        return "link"
    return "writable" if status.st_mode & _WRITABLE_BY_OTHERS else None


def check_private(path: str | os.PathLike[str]) -> None:
    """Refuse a file that another user owns or may write: its content may be planted.

    Raises:
        PermissionError: it is such a file.
        OSError: it cannot be examined.
    """
    match exposure(path):
        case "foreign":
            raise PermissionError(f"{os.fspath(path)!r} belongs to another user: use a file of your own")
        case "link":
            raise PermissionError(f"{os.fspath(path)!r} is a link to another file: remove it")
        case "writable":
            raise PermissionError(f"other users may write {os.fspath(path)!r}: remove that right with `chmod 600`")
        case None:
            pass


def setting_path(name: str, given: str | os.PathLike[str]) -> Path:
    """Return the resolved path of a setting.

    Raises:
        ConfigurationError: it is empty, not a path, or cannot be resolved.
    """
    try:
        return resolved_path(given)
    except InvalidArgumentError as error:
        raise ConfigurationError(f"{name}: {error.message}") from error


def resolved_path(path: str | os.PathLike[str]) -> Path:
    """Return the resolved path: two ways to a file are one file.

    Raises:
        InvalidArgumentError: it is empty, not a path, or cannot be resolved.
    """
    if isinstance(path, str | bytes) and not path:
        # It would be the current directory.
        raise InvalidArgumentError('the path is empty; give the name of a file, such as "run.sqlite"')
    try:
        return Path(path).resolve()
    except TypeError as error:
        raise InvalidArgumentError(f"a path is needed, not {type(path).__name__}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidArgumentError(f"{os.fspath(path)!r} cannot be resolved: {error}") from error
