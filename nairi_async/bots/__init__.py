"""For chat bots: one dialogue for each chat, in order, over restarts; replies in pieces that the platform accepts."""

from __future__ import annotations

from nairi_async.bots.chat_reply import ChatReply
from nairi_async.bots.chats import Chats
from nairi_async.bots.file import File
from nairi_async.bots.split import split_text, utf16_length
from nairi_async.bots.sqlite_store import SQLiteStore
from nairi_async.bots.store import MemoryStore, Record, Store
from nairi_async.bots.typing_indicator import Typing
from nairi_async.errors import AlreadyAskedError, ChatBusyError, StoreError

__all__ = [
    "AlreadyAskedError",
    "ChatBusyError",
    "ChatReply",
    "Chats",
    "File",
    "MemoryStore",
    "Record",
    "SQLiteStore",
    "Store",
    "StoreError",
    "Typing",
    "split_text",
    "utf16_length",
]
