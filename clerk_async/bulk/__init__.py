"""Bulk revocation: many sessions, paced, journaled, one outcome each.

To read the code, begin with `methods` (what users call), then `revoke` (how a run starts), `run`
(the engine), `work` and `sweep` (where its jobs come from), `verdict` (what an answer means),
`ledger` (who is told), and `journal`. What follows is why a run behaves as it does.

The limit
---------
Clerk counts requests by secret key: 1000 in 10 s for production, 100 in 10 s for development
(https://clerk.com/docs/backend-requests/resources/rate-limits). A run takes four fifths of that by
default, so that the product which uses the same key keeps a fifth: a key that is used up refuses
the product's calls too. With shared state the single calls of all processes are counted, and a run
takes nine tenths. A `RateLimit` that is given, here or to the client, is taken as it is.

The window
----------
A request arrives somewhere between its send and its answer, nobody knows when. So it holds its
place in the window from the send until `per` seconds after the answer: whoever takes the place
then arrives at least that much later, and no window at the service is overrun, whatever the
latency. A run that is smaller than the limit goes out at once. See `clerk_async.pacing.window`.

The ramp
--------
Concurrency starts at 16 and doubles with each round trip while nothing is refused. On a 429 all
workers wait for as long as it says, and start again from four; the part of the limit that is used
falls to nine tenths of what was let through, climbs back slowly, lingers there, and goes on faster.
So somebody else on the same key costs a few refusals, not hundreds. See `clerk_async.pacing.ramp`.

Rounds
------
Each session is sent as often as the client's retry policy says. If the reason why it failed may
pass (a lost connection, a 5xx, a 429), it has another round when the input is at its end, or when
1,000 such sessions wait; ten rounds if all that was said was 429. After a 400, or an answer that
can't be read, one look at the session tells what became of it.

Stops
-----
A refused key, `max_failures`, `deadline` and `should_stop` end a run. Nothing is sent after that,
what is in flight is finished and told, and the report comes. What was not sent, or was due for
another try, is `not_attempted`. A cancelled run does the same, but cuts off after two seconds what
has no answer. An input or a `should_stop` that doesn't let go by then is left behind.

The journal
-----------
Each outcome is written before anybody is told of it, so a killed run loses nothing and claims
nothing. A second run with the same file sends only what is not done. See
`clerk_async.bulk.journal`.

Users
-----
`revoke_all` looks at a user again until a look finds nobody, and that last look is complete however
the list changes meanwhile. See `clerk_async.bulk.sweep` and `clerk_async.http.paging`.
"""
