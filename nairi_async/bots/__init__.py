"""For chat bots: one dialogue for each chat, in order, over restarts; replies in pieces that a platform takes.

`Chats` knows no platform. Give it the platform's id of the channel, chat or thread, and send the pieces of the reply:

```python
import asyncio

from nairi_async import NairiSession
from nairi_async.bots import Chats, SQLiteStore


async def main() -> None:
    async with NairiSession() as nairi, SQLiteStore("chats.sqlite") as store:
        chats = Chats(nairi, "my-agent", store=store, limit=2000)
        async with chats.turn("channel 7", "Which charges failed today?", key="message 1") as reply:
            for piece in reply.pieces:
                print(piece)  # your platform's way to send


asyncio.run(main())
```

* **In order.** Prompts of one chat run, and their replies are sent, one after the other. Different chats run at once.
* **A restart loses no conversation, and no crash runs a prompt twice.** What may be running, and what waits behind it,
  is on disk (`SQLiteStore`, or four methods of your own). A message that the platform delivers again is recognised by
  its `key`: `AlreadyAskedError`, which names the dialogue. Inside `async with chats.recovering(send)` a process takes
  over what the one before it left: prompts whose reply did not arrive are looked up, prompts that provably did not run
  are asked, and each reply is sent. One that was being sent is sent again as a whole. A service that cannot be asked
  what became of a prompt, such as Amigo, leaves it lost: `recovering(send, on_lost)` reports it.
  Records are dated by the service's clock, so this machine's may be set at any time. Only if the service could not be
  asked for its time before a process sent its first prompt, and that prompt's response was lost as well, this machine's
  clock counts: set it by more than five minutes before the next process, and that prompt may run twice.
* **One process answers a chat.** `SQLiteStore` waits for the end of another process that uses its file.
* **A flood costs at most `max_waiting` turns** (20 in each chat): `ChatBusyError`. A store that fails keeps a prompt
  from leaving (`StoreError`), and costs no reply.
* **Pieces that the platform takes.** `split_text` cuts after paragraphs, lines or words. A code block that has to be
  cut is closed, and opened again with its language.
* **A typing indicator**, by the platform's own context manager or any function. Neither prompt nor reply waits for it.
  **Files** both ways; `forget(chat)` starts over.
* **People read no internals**: `visitor_message(error)` is one sentence for each class of errors.

Whole bots, tested with the real libraries, are in the repository under `tests/recipes`: `discord_bot.py`,
`aiogram_bot.py`, `slack_bot.py`, 50 to 90 lines each.

What platforms' libraries really do, seen by running each on loopback in November 2026, and what is done about it here:

| library | what it does | what is done |
| --- | --- | --- |
| aiogram 3.31.0 | confirms updates before their handlers end; a stop abandons these | `key=`, `recovering` |
| | with `handle_as_tasks=False` delivers finished updates again after a stop | `AlreadyAskedError` |
| | `ChatActionSender`: leaving waits for the action under way, a cancellation too | no reply waits for `typing=` |
| discord.py 2.7.1 | `typing()`: its body begins late after a 429, never after a 403 or 503 | the same |
| | posts a text again after a 500, 502, 504 or 524 | the recipe's `nonce`: Discord knows it |
| | handles two messages of a channel at once | one turn at a time in a chat |
| | `close()` returns at once, and leaves handlers running | `recovering` |
| | asks for compression by zstd, from Python 3.14 on | nothing: only a test's gateway needs it |
| slack_bolt 1.30.0 | acknowledges an event before its listener ends | `key=`, `recovering` |
| | `close_async()` leaves listeners running, which still post | the session is closed: they end |
| | `ack()` of a command after 4 s acknowledges nothing, without an error | the recipe answers events only |
| slack_sdk 3.48.0 | posts a text again when the response was lost | the recipe replaces its handlers |
| | `ValueError` out of a call for `Retry-After: 1.5` or a date | nothing: whole seconds work |
| | `chat_stream` holds back 256 characters and does not split | `split_text`, whole messages |

`Chats` works with any session whose conversations follow `nairi_async.dialogue`. Amigo allows one unfinished
conversation for each user and service, so make an `AmigoSession(user_id=…)`, and its `Chats`, for each visitor.
"""

from __future__ import annotations

from nairi_async.bots.chat_reply import ChatReply
from nairi_async.bots.chats import Chats
from nairi_async.bots.file import File
from nairi_async.bots.recovery import LostPrompt
from nairi_async.bots.split import split_text, utf16_length
from nairi_async.bots.sqlite_store import SQLiteStore
from nairi_async.bots.store import ChatPrompt, MemoryStore, Record, Store
from nairi_async.bots.typing_indicator import Typing
from nairi_async.bots.visitors import visitor_message
from nairi_async.errors import AlreadyAskedError, ChatBusyError, StoreError

__all__ = [
    "AlreadyAskedError",
    "ChatBusyError",
    "ChatPrompt",
    "ChatReply",
    "Chats",
    "File",
    "LostPrompt",
    "MemoryStore",
    "Record",
    "SQLiteStore",
    "Store",
    "StoreError",
    "Typing",
    "split_text",
    "utf16_length",
    "visitor_message",
]
