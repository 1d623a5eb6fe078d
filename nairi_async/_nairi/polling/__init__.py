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
log-normal turns, against a fixed interval with the same delay: 0.65 of its requests where each turn may be of any of
three agents (5, 30 and 180 s) that are known, 0.92 for one agent that is known. The first five turns of an agent are
polled as by a loop that begins quickly: 0.80 where 60 conversations have eight turns each, every one with its agent,
0.95 to 0.98 for the first 60 to 200 turns of one conversation.

**What to poll (`turn_waiter`, `tracker`, `conversation_reader`).** While a turn runs, its user message is read. The
conversation is read once after the end, or, where replies are watched, as often as its weight allows. A read that shows
the turn still running is older than its end, and is repeated for up to half a minute.

**The trial of the listing (`feed_trust`, `change_feed`, `change_feeds`, `subscription`).** What moves a job's
`updated_at` is undocumented. So the listing is read next to the watchers' own polls until it has announced what three
of them found, and then replaces polls. It is given up with one log record when a poll finds what it did not announce,
when it announces too late, or when it costs more than the polls that it saves; after a back-off it is tried anew. An
outage, a change that a later prompt hides and what happened before the first reading are no evidence against it.

What each rule costs in requests, and its stated risk:

* On the first trial a panel of 48 polls by itself; of at least 96, the others wait for the listing. 0.7 requests a turn
  before the trust, with a thousand turns of a minute. While a wrong listing is on trial, about one turn in 48 is found
  up to 29 s late (`trial_patience`).
* A trusted listing is waited for. 2 to 3 requests a turn with a thousand conversations. A single end that it does not
  announce at all is found after five times `Polling.maximum`, and then it must prove four times as much.
* A change in the first 0.3 seconds after a prompt was sent, less where the agent's last 200 turns were shorter, counts
  as the prompt's own. It may be the end of a turn that failed at once, and a poll may be answered by a server that
  lags: so a conversation is polled once within `Polling.maximum` of each change, until a poll ten seconds after it has
  shown what came of it. One request for each turn that lasts longer than that.
* Where three of a hundred turns end within `Polling.delay`, each turn is polled once at about that time. One request a
  turn.
* A listing that cannot be read is asked again after four seconds, then ever less often: in the end once in 48 to 80
  seconds. Conversations poll by themselves for that long after it can be read again.
* Each fifth reading begins half a minute back, for rows that became visible late or were dated by another clock; less
  where more than 500 rows change in that time. At most five pages.
* Up to three own polls follow an announced one that shows no end, one where they find nothing. A status that turns more
  than seven delays after its reply was announced counts as an end that is not announced.
* The listing's lateness is measured by the service's own times, and by how much longer its pages take than a poll. No
  request. Up to nine ends are as late as the listing.
* A turn that is queued behind others of this session is polled seldom, and each end calls the next. Two requests a turn
  more than for its own length. An agent that does not run turns in the order of their prompts: a turn is found after
  `Polling.maximum`, a quarter of the time queued, or two delays for each turn before it, until that is noticed; with
  a trusted listing after the next reading. Where none is seen to run, turns that came together are polled one by one.
* A conversation that is followed and has no open turn is polled after a fifth of its idle time, at most after
  `Polling.maximum`: 120 requests an hour. With a trusted listing 24, and 120 readings for all together. So late is a
  prompt from elsewhere found; with a trusted listing, after five times `Polling.maximum` at most. This session's own
  prompts are noticed at once.
* A turn that outlasts all before it learns from its own survival. About 370 requests for 50 minutes at an agent whose
  turns take 5 s. It is found up to `Polling.maximum` late.

**Who reads (`listing_reader`, `listing_pages`, `waiters`, `shared_reads`, `agent_queue`).** There is no background
task. Of the watchers that wait for the listing one leads and reads it for all; identical reads at one time are one
request. For patient watchers alone, of queued turns and idle conversations, it is read every `Polling.maximum` seconds.

**What is new (`timeline`).** From the reads of a conversation it makes the new messages, each once and in
order. `watch` iterates over
them, and `turn_messages` makes the reply or the error of a turn that ended.

Closing the session ends all waits at once.

Pure, without clock or I/O: `agent_queue`, `cadence`, `feed_trust`, `hazard`, `list_order`, `listing_pages`, `schedule`,
`settings`, `timeline`, `turn_lengths` and `turn_messages`. `poller` joins them with the session's clock. How the
figures were measured stands in `benchmarks/README.md` ("Finding news").
"""
