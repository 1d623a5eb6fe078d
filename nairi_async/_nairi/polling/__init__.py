"""When a watched conversation is polled, and why: the theory of polling, and the map of this package.

The service has no push: the client learns the end of a turn by reading its user message (`GET messages/{id}`, small)
and the replies by reading the conversation (`GET conversations/{id}/messages`, whole each time). One listing,
`GET agents/{id}/conversations?updated_after=…`, may announce for all conversations of an agent which of them changed.
See https://nairi.ai/docs/api/conversations/overview and …/list-for-agent.

**When to poll (`schedule`, `cadence`, `hazard`).** The caller states which mean delay of discovery is acceptable. For a
known distribution of waiting times, polls are cheapest as dense as the square root of its hazard, so the integral of
that root is the same between any two polls. The hazard is learnt for each agent and kind of news, from the intervals in
which news was found and the time survived without. The integral is one constant of the session, tuned until news is
found `Polling.delay` late on average. A poll falls at most `Polling.maximum` seconds after the last. Measured on
log-normal turns: 0.64 of the requests of a fixed interval with the same delay for a mix of agents, 0.93 for one agent.

**What to poll (`turn_waiter`, `tracker`, `conversation_reader`).** While a turn runs, its user message is read. The
conversation is read once after the end, or, where replies are watched, as often as its weight allows.

**The trial of the listing (`feed_trust`, `change_feed`, `subscription`).** What moves a job's `updated_at` is
undocumented. So the listing is read next to the watchers' own polls until it has announced what three of them found,
and then replaces polls: 1.8 requests for each turn instead of 20 with a thousand conversations whose completions are
listed. It is given up with one log record when a poll finds what it did not announce, or when it costs more than the
polls that it saves; after a back-off it is tried anew. Where it cannot be read, watchers poll by themselves until it
can. An outage, a change that a later prompt hides and what happened before the first reading are no evidence against
it. On the first trial of a listing a panel of 48 conversations polls by itself, and the others wait for the listing,
but no longer than `trial_patience`. After an announced poll that shows no end, up to three polls of the watcher's own
follow, because the end may come without an announcement; and a watcher that waits for the listing polls after five
times `Polling.maximum` in any case.

**Who reads (`listing_reader`, `listing_pages`, `waiters`, `shared_reads`).** There is no background task. Of the
watchers that wait for the listing one leads and reads it for all; identical reads at one time are one request.

**What is new (`timeline`).** From the reads of a conversation it makes the new messages, each once and in
order. `watch` iterates over
them, and `turn_messages` makes the reply or the error of a turn that ended.

Pure, without clock or I/O: `cadence`, `feed_trust`, `hazard`, `list_order`, `listing_pages`, `schedule`, `settings`,
`timeline` and `turn_messages`. `poller` joins them with the session's clock. How the figures were measured stands in
`benchmarks/README.md` ("Finding news").
"""
