"""Bulk revocation: many sessions, paced, journaled, with one outcome each.

To read the code, begin with `methods` (what users call), then `run` (the engine), `work` and
`sweep` (where its jobs come from), `rounds` (which of them are tried again), `verdict` (what a
response means), `ledger` (who is notified), and `journal`. The rest of this text explains why a run
behaves the way it does.

The limit
---------
Clerk counts requests by secret key: 1000 in 10 s for production, 100 in 10 s for development
(https://clerk.com/docs/backend-requests/resources/rate-limits). By default a run uses four fifths
of that limit and leaves a fifth to the product that uses the same key: once the limit is used up,
Clerk rejects the product's calls too. With shared state, the single calls of all processes count as
well, and a run uses nine tenths. A `RateLimit` passed here or to the client is used as given.

The window
----------
A request arrives at some unknown time between its send and its response. So it keeps its place in
the window from the send until `per` seconds after the response. The request that takes the place
next arrives at least that much later, and no window at the service overflows, whatever the latency.
A run that is smaller than the limit goes out at once. See `clerk_async.pacing.window`.

The ramp
--------
Concurrency starts at 16 and doubles with each round trip while no request is refused. On a 429 all
workers wait for as long as the response says, then start again from four. The part of the limit in
use drops to nine tenths of what the service let through, climbs back slowly, stays near that level
for a while, and then grows faster. So other users of the same key cost a few refusals, not
hundreds. See `clerk_async.pacing.ramp`.

Rounds
------
In each round, a session is tried as often as the client's retry policy allows. If it failed for a
reason that may pass (a lost connection, a 5xx, a 429), it gets another round once the input is
exhausted, or once 1,000 such sessions wait (fewer if `max_failures` is lower). All attempts of a
round may fall into one short outage, so the next round begins no sooner than four times the
policy's `base_delay` after it: a second by default. If the deadline would come first, the next
round begins at once. A session gets two rounds, or ten if the last response was a 429. After a 400,
or a response that can't be read, the run looks the session up once to find out what became of it.

Stops
-----
A rejected key, a journal that can't be written, `max_failures`, `deadline` and `should_stop` end a
run. The run then sends nothing more, finishes what is in flight, reports those outcomes, and
returns its report. Sessions that were not sent, or were due for another try, are `not_attempted`. A
cancelled run does the same, but after two seconds it cuts off the requests that have no response
yet. If the input or `should_stop` still blocks by then, the run abandons it. A coroutine callback
gets two seconds for each call after the stop; if it takes longer, it is cancelled, and its function
is not called any more. The report, the journal and the stream still have those outcomes. If the
client is closed, its runs end too, whatever they wait for, and raise `ClientClosedError`.

Denials
-------
A run denies its sessions as soon as it knows their ids, long before their turn, so the client's
verifiers, and those of all processes with the same shared state, reject their tokens at once. A
session stays denied for `keep` seconds, whatever became of its revocation. Only the denials of
sessions that a stopped run never tried are withdrawn, unless they were denied by someone else, too.

A run in another process counts as someone else even if it is stopped as well: neither run knows
whether the other still needs the denial. So if runs in two processes share sessions, and both are
stopped before they try them, these sessions stay denied for `keep` seconds although they were not
revoked. `allow` withdraws such a denial. See `clerk_async.bulk.lockout`.

The journal
-----------
A run writes each outcome to the journal before it reports it, so a killed run loses no outcome and
claims none that isn't saved. A second run with the same file sends only what is not done. See
`clerk_async.bulk.journal`.

Users
-----
`revoke_all` lists a user's sessions again and again until it finds none to revoke. That last look
is complete even if the list changes meanwhile. See `clerk_async.bulk.sweep` and
`clerk_async.http.paging`.
"""
