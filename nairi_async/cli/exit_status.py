"""The exit statuses of all commands."""

from __future__ import annotations

from typing import Final

ERROR: Final = 1
USAGE: Final = 2
FAILED: Final = 3
TIMEOUT: Final = 4
OPEN: Final = 5
# What a shell reports of a program that was ended by SIGINT and by SIGPIPE.
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

MEANINGS: Final = {
    0: "done",
    ERROR: "error",
    USAGE: "wrong usage or settings; nothing was sent",
    FAILED: "the agent's turn, or some of a batch, failed, or records cannot be used",
    TIMEOUT: "timeout; the turn goes on",
    OPEN: "some of a batch have not ended: the same command resumes",
    INTERRUPTED: "interrupted",
    BROKEN_PIPE: "the reader of the output is gone",
}
"""What each of them means, as the help says it."""
