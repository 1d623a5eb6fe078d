"""Durable keys for prompts: the same key, also in a later process, gives the same turn.

A journal is an SQLite file. It holds one entry for each key, and no prompt: what a prompt said is recognised by a
digest. What is durable before the next step:

| entry | meaning | what a call with the key does |
| --- | --- | --- |
| none | the prompt provably does not run | uploads its files, writes `sending`, and sends it |
| `sending` | the prompt may have left; after a crash it may run or not | looks it up at the service (`delivery`) |
| a turn | the prompt became this turn | returns it, without a request |

* `sending` is on the disk before the prompt leaves, so no prompt runs that the journal does not know.
* The turn is on the disk before the call returns it.
* A prompt that was refused, or was never sent, has no entry: its key is free again.
* One process at a time uses a journal. So an entry that is `sending` when a call finds it belongs to no other running
  call, unless it is one of this process, which is waited for.
"""
