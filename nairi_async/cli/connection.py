"""The session of a command: its key, from the environment or a file, and the way out of the environment."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nairi_async._nairi.session import NairiSession
from nairi_async.cli.formatting import clean
from nairi_async.cli.screen import Screen
from nairi_async.errors import ConfigurationError

if TYPE_CHECKING:
    from argparse import Namespace

# No key is longer; a device such as /dev/zero would never end.
_LONGEST: Final = 64 * 1024
_BY_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def open_session(options: Namespace) -> NairiSession:
    """Return the session for a command's options and environment, not opened yet."""
    # The error of the session itself says how to give it a key in Python.
    if not has_key("NAIRI_API_KEY"):
        advice = "without an account, `nairi-async simulate` plays the service"
        raise ConfigurationError(
            "no API key: set the environment variable NAIRI_API_KEY; NAIRI_API_KEY_FILE can name a file that holds it;"
            f" {advice}"
        )
    return NairiSession(key_of_file("NAIRI_API_KEY"), base_url=options.base_url, trust_env=True)


def has_key(variable: str) -> bool:
    """Return whether the environment has a key, or names a file that holds one."""
    return bool(os.environ.get(variable) or os.environ.get(f"{variable}_FILE"))


def key_of_file(variable: str) -> str | None:
    """Return the key from the file that `<variable>_FILE` names; `None` without that variable.

    Line breaks around the key are ignored. Standard error has a warning if others may read a file of this user: secrets
    that a container's host mounts belong to another user, or to root, and their mode cannot be changed.

    Raises:
        ConfigurationError: both variables are set, or the file cannot be used. No text shows what the file holds.
    """
    name = os.environ.get(f"{variable}_FILE")
    if not name:
        return None
    if os.environ.get(variable):
        raise ConfigurationError(f"{variable} and {variable}_FILE are both set: set one of them")
    shown = f"{variable}_FILE: {name!r}"
    key = _only_line(_read(shown, Path(name)))
    if not key:
        raise ConfigurationError(f"{shown} must hold the key, and nothing else, on one line")
    return key


def _read(shown: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            _check_mode(shown, os.fstat(file.fileno()))
            return file.read(_LONGEST)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigurationError(f"{shown} cannot be read: {reason}") from error


def _check_mode(shown: str, status: os.stat_result) -> None:
    # A pipe, such as that of `<(pass show nairi)`, has one reader.
    if not stat.S_ISREG(status.st_mode) or not hasattr(os, "geteuid"):
        return
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise ConfigurationError(f"{shown} can be written by other users, who could plant a key: chmod 600")
    if status.st_mode & _BY_OTHERS and status.st_uid == os.geteuid() != 0:
        text = f"warning: {shown} can be read by other users: change its permissions with chmod 600"
        Screen.on(sys.stderr).show(clean(text), "yellow")


def _only_line(content: bytes) -> str:
    """Return the only line of a text; empty if it has none or several, or is not UTF-8."""
    # Nothing is raised from here: the traceback would hold the content.
    lines = content.decode("utf-8-sig", "replace").strip().splitlines()
    return lines[0] if len(lines) == 1 and "\ufffd" not in lines[0] else ""
