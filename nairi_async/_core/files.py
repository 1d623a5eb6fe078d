"""Writes a file with an untrusted name: inside its directory, atomically, and without replacing another."""

from __future__ import annotations

import os
import re
import secrets
import unicodedata
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import Final

# In bytes: the limit of the usual file systems.
_MAX_NAME: Final = 255
_MAX_SUFFIX: Final = 20
# Separators and wildcards of any system; the colon also marks drives and alternate data streams.
_UNSAFE: Final = frozenset('<>:"|?*/\\')
# Control characters, surrogates, line separators, and the overrides of the direction of text.
_INVISIBLE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_BIDI_CONTROLS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Names of devices: on Windows, opening such a name with any suffix opens the device.
_DEVICE: Final = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\..*)?", re.IGNORECASE
)


def safe_name(name: str, fallback: str) -> str:
    """Return the last part of a name in a form that every file system takes, or of `fallback` if nothing is left.

    Most names stay as they are. Directories and drives are removed, and unsafe characters become `_`.
    """
    return _last_part(name) or _last_part(fallback) or "attachment"


def write_new(directory: str | os.PathLike[str], name: str, data: bytes, *, overwrite: bool) -> Path:
    """Write a file in a directory, which is created if it is missing, and return the file's path.

    Other programs see the whole file or none, also after a crash.

    Raises:
        FileExistsError: the name is taken, and `overwrite` is off.
        OSError: the operating system refuses.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    part = folder / f".{secrets.token_hex(8)}.part"
    # Created by open and not by tempfile, so that the user's own permission mask applies.
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            part.replace(target)
        else:
            _rename_new(part, target)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return target


def _rename_new(part: Path, target: Path) -> None:
    """Rename a written file, unless the new name is taken."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):
        # No hard links on this file system (OSError) or platform (NotImplementedError): reserve the name first, so that
        # no other program can take it in between.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        part.replace(target)


def _last_part(name: str) -> str:
    # Windows' rules include every separator, and drives.
    last = PureWindowsPath(name).name
    kept = "".join("_" if _is_unsafe(character) else character for character in last)
    # Windows removes trailing dots and spaces itself, which would make it another name.
    kept = kept.strip().rstrip(". ")
    if kept.startswith((".", "-")):
        # A shell reads files that begin with a dot, and a command takes a dash for an option.
        kept = f"_{kept[1:]}"
    if _DEVICE.fullmatch(kept):
        kept = f"_{kept}"
    return _shortened(kept)


def _is_unsafe(character: str) -> bool:
    return character in _UNSAFE or character in _BIDI_CONTROLS or unicodedata.category(character) in _INVISIBLE


def _shortened(name: str) -> str:
    if len(name.encode()) <= _MAX_NAME:
        return name
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix.encode()) > _MAX_SUFFIX:
        stem, dot, suffix = name, "", ""
    limit = _MAX_NAME - len(f"{dot}{suffix}".encode())
    return stem.encode()[:limit].decode("utf-8", "ignore").rstrip(". ") + dot + suffix
