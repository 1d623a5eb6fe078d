"""Delivery of prompts: each prompt is sent at most once, and is found again when its response was lost.

The service has no idempotency key, so a prompt is never sent twice to be safe. Three steps take its place:

1. Send (`prompt_sender`). A `PendingPrompt` is sent again only if it provably never ran: no connection was made, or
   the service refused it. If the request may have been written and no readable response came, the prompt is *lost*:
   `OutcomeUnknownError`, or the search below for `on_unknown="reconcile"`.
2. Search (`prompt_search`, `reconciler`). The `Reconciler` reads the user messages that may be the lost prompt: the
   first message of the agent's newest conversations, or the messages of the one conversation that was continued. A
   message matches if its text and files (`PromptFingerprint`) are the same and its time is in the `SearchWindow`, which
   allows for the difference between the two clocks. The search is repeated until the settling time is over.
3. Match (`claims`). Equal prompts of one session cannot be distinguished at the service, so each open `Claim` takes a
   turn of its own: turns that other prompts received are left out, responses in flight are awaited first, and if more
   turns are found than there are lost prompts, none is taken; the error names them as `candidates`.

The journal and a batch run steps 2 and 3 for prompts of earlier processes, also for those that continue a conversation.
`NairiSession.find_start` runs steps 2 and 3 for a prompt that an earlier process or call sent, from the times it
recorded. It alone can say that a prompt does not run, and only if every conversation that the agent began in those
minutes is explained by another prompt; the rules stand in `reconciler`.
"""
