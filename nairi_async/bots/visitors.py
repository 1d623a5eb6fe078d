"""Error messages for the people in a chat, which reveal nothing about the service."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nairi_async._core import visitor_messages

if TYPE_CHECKING:
    from nairi_async.errors import NairiError

_log = logging.getLogger("nairi_async.bots")


def visitor_message(error: NairiError) -> str:
    """Return what to say in a chat about an error.

    An error in the user's own input keeps its text. Every other error becomes one sentence for its class, since the
    texts of services contain hosts, paths and more; the original text goes to the log `nairi_async.bots`.
    """
    if not visitor_messages.is_shown(error):
        _log.warning("a message of a chat has failed with %s: %.1000r", type(error).__name__, str(error))
    return visitor_messages.visitor_message(error)
