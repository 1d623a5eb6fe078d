"""Writing a file that a stranger named: inside the directory, atomically, and over nothing unless told."""

from __future__ import annotations

import os
import re
import secrets
import unicodedata
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import Final

# In bytes: what the usual file systems take.
_LONGEST_NAME: Final = 255
_LONGEST_SUFFIX: Final = 20
# Separators and wildcards of any system, and the colon of drives and of alternate data streams.
_UNSAFE: Final = frozenset('<>:"|?*/\\')
# Controls, halves of characters, line ends, and what makes text read in another order than it is in.
_UNSEEN: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_OVERRIDES: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Names of devices, with any suffix: opening one on Windows opens the device.
_DEVICE: Final = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\..*)?", re.IGNORECASE
)


def safe_name(name: str, fallback: str) -> str:
    """The last part of a name, as every file system takes it; `fallback` where nothing is left of it.

    Most names stay as they are. What could lead elsewhere is taken off (directories, drives) or becomes `_`.
    """
    return _last_part(name) or _last_part(fallback) or "attachment"


def write_new(directory: str | os.PathLike[str], name: str, data: bytes, *, overwrite: bool) -> Path:
    """Write a file in a directory, which is made if it is missing; returns its path.

    Other programs see all of it or nothing, also after a crash.

    Raises:
        FileExistsError: there is something of that name, and `overwrite` is off.
        OSError: the disk or the system refuses.
    """
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    target = place / name
    part = place / f".{secrets.token_hex(8)}.part"
    # Made by open and not by tempfile, so that the user's own permission mask applies.
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            part.replace(target)
        else:
            _place(part, target)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return target


def _place(part: Path, target: Path) -> None:
    """Give a written file its name, unless something has it."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):
        # No links on this file system, or on this platform, which is what the second error says: the name is taken
        # first, so that nothing can come between.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        part.replace(target)


def _last_part(name: str) -> str:
    # Windows' rules know every separator, and drives.
    last = PureWindowsPath(name).name
    kept = "".join("_" if _is_unsafe(character) else character for character in last)
    # Windows takes trailing dots and spaces off by itself, and so would meet another name.
    kept = kept.strip().rstrip(". ")
    if _DEVICE.fullmatch(kept):
        kept = f"_{kept}"
    return _shortened(kept)


def _is_unsafe(character: str) -> bool:
    return character in _UNSAFE or character in _OVERRIDES or unicodedata.category(character) in _UNSEEN


def _shortened(name: str) -> str:
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix.encode()) > _LONGEST_SUFFIX:
        stem, dot, suffix = name, "", ""
    room = _LONGEST_NAME - len(f"{dot}{suffix}".encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ") + dot + suffix
