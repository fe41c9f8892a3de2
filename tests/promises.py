"""What is promised to users, and the table that names the tests which prove it.

A test proves a promise if it is marked `@pytest.mark.promise("key", …)`. After a change, run

    python tests/promises.py

which writes the table in README.md anew; `test_promises.py` fails while it is out of date.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parent
README: Final = TESTS / "README.md"
HEAD: Final = "| promise | proved by |\n|---|---|\n"

PROMISES: Final[dict[str, dict[str, str]]] = {
    "Under faults": {
        "books-agree": "What the client reports is what the service holds, whatever the wire does: nothing lost, nothing claimed that did not happen, no connection, task, thread or file left",
        "sent-once": "`create` and `refresh` are never sent twice where the first may have arrived",
        "deadline": "A deadline covers queue, attempts and waits, and holds to 5 %",
        "nothing-grows": "Memory, files, threads and tasks stay flat over many clients' lives, connections over one",
        "hostile-input": "No answer, error body, Retry-After, journal, token, cookie or command line gets past our own errors, in bounded time and memory",
    },
    "Secrets": {
        "redaction": "What is shaped like a secret is hidden wherever in a text it stands",
        "no-secret-shown": "No key, JWT, refresh token, cookie or proxy's login in any log, repr, error, chain, warning, journal or pickle",
        "no-secret-in-frames": "Nor in the locals of our frames, as far as the key, a proxy's login and cookies go",
        "no-secret-printed": "Nor in what the command line prints",
        "no-pickled-clients": "Clients and verifiers refuse to be pickled or copied",
        "loopback": "Loopback is never proxied, by environment or argument, however it is spelled: no key leaves",
        "raw-errors": "The raw value stays on `errors`; errors cross processes",
    },
    "Requests and answers": {
        "exact-requests": "What is sent is exactly the contract's",
        "checked-arguments": "An id can't lead to another path; bad arguments never leave",
        "models-and-errors": "Every operation gives its model, and each status its error",
        "tolerant-decoding": "Nothing is coerced; a bad field costs that field, a bad item that item; unknown statuses stay readable",
        "quiet-log": "A field that the service drops is one log line for each client, not one for each session",
        "tools": "attrs, cattrs and whatever resolves type hints may work on our values at any time",
        "json-values": "Values are JSON by `to_dict`, and by annotation in FastAPI and pydantic, with a schema; secrets are not",
        "both-lists": "Both shapes of a list are read",
        "useless-bodies": "A body of no use is a ResponseDecodeError, never an empty list",
        "complete-iteration": "`iterate` gives every session once, whatever ends, begins or is revoked meanwhile and whatever totals say; a list without an end is an error",
        "own-answers": "Each call gets the answer to its own request: a connection on which anything came unasked is not used again",
        "readable-answers": "Headers up to 64 KiB are read, and gzip and deflate in each of their forms",
        "unreadable-once": "What can't be parsed is told with the reason and sent once; an error status that came counts",
        "bounded-answers": "No redirect is followed, no cookie kept, no body read without bound",
    },
    "Retries and time": {
        "retry-table": "The retry table, row by row, as rules and on the wire",
        "counted-sends": "Every send is counted, aiohttp's own resend is off",
        "fresh-retries": "After a lost connection or a time-out the retry goes out on a fresh connection, and the idle ones are given up",
        "kept-connections": "An idle connection is kept for minutes, so that a quiet program doesn't connect anew for each call",
        "backoff": "Full jitter; Retry-After is never undercut, and too long a one is raised at once",
        "retry-quota": "The retry quota keeps an outage from tripling the load",
        "debug-lines": "Each call ends with one DEBUG line: what was asked for, how it ended, milliseconds, attempts, trace id",
        "shared-pause": "On a 429 the whole client pauses",
        "pool-wait": "Waiting for the pool takes nothing of an attempt's time; the error tells the phase",
        "never-sent": "A connection that was never made is told apart from one that was lost",
    },
    "Between processes": {
        "shared-limit": "All processes on a key share one window of the rate limit, caps and single calls included",
        "window-script": "The script that keeps the window agrees with a plain model of it, and scripts that break one of its rules do not",
        "pauses-of-all": "A 429's pause, and what a neighbour leaves of the limit, hold for all of them",
        "shared-denials": "What one process denies or allows all know, over cut connections, forks, late starts and a Redis that lost its memory; the later act counts",
        "unreadable-entries": "An unreadable entry of the feed is logged once and dropped",
        "closed-verifier": "A verifier with `denials_max_age` says that it can't know, and never signs anybody out for it",
        "redis-away": "While Redis is away a process goes on with its share, says so once, and closes within a bound",
        "shared-settings": "A shared state that can't be used is refused at once, and who shares nothing loads nothing of it",
        "nothing-secret-shared": "No key, token, cookie or password is stored in Redis, or said of it",
    },
    "Life of a client": {
        "lazy-construction": "Making one needs no loop and does no I/O",
        "dead-loops": "A dead loop is left behind, another running one refused",
        "closing": "Closing ends calls in flight, queues and waits",
        "cancellation": "Cancellation is never swallowed and frees the connection",
        "token-source": "A token source makes one request for all who ask, ahead of the token's expiry, and outlives a short outage",
        "views": "Views share the pool and don't close it; a session of the user's stays open",
        "own-client-session": "A session that is handed in changes no error and no body, however it was made",
        "aiohttp-internals": "What aiohttp renames inside shows in a test and breaks no call",
        "settings": "Settings: argument, environment, default; no key in the clear",
        "tls-and-proxies": "TLS failures are final and name the remedy; proxies by argument and environment",
    },
    "The sync client": {
        "sync-parity": "The same names, parameters, results and docs",
        "unclosed-programs": "A program that never closes ends by itself, soon and with its own code",
        "nobody-stranded": "Nobody waits for ever: not in a call that comes as the loop ends, nor in a callback when the client is closed, nor in a child that goes on with what its parent began",
        "sync-surroundings": "Fork, threads, Ctrl-C, running loops, green threads",
        "interruptions": "Ctrl-C comes out within milliseconds wherever it strikes, unless something is in flight; other threads' calls and later ones go on, and nothing is left",
        "signal-handlers": "A signal handler may close a client, or use one, while the main thread is anywhere in our code",
        "asyncio-only": 'Under trio, or without any loop, each entrance says "asyncio only"',
        "caller-thread": "Called from its own loop it says so; callbacks run in the caller's thread",
        "many-threads": "Sixteen threads share clients and verifiers, with and without the GIL",
        "real-servers": "Real servers, worker pools, notebooks",
        "other-loops": "uvloop, and tasks that start at once (Python 3.12)",
    },
    "Bulk revocation": {
        "true-outcomes": "One request per session in the good case, and the true outcome in any other",
        "any-input": "Any iterable, endless ones too; memory does not grow; duplicates are sent once; a bad id is an outcome",
        "streams-end": "A stream ends, however workers and reader meet",
        "pacing": "No window at the service is overrun, and little time is lost",
        "stops": "Stops by refused key, failures, deadline, question, cancellation; what is in flight is finished",
        "kill-9": "kill -9 loses nothing and claims nothing; a second run goes on",
        "foreign-journals": "A journal of another instance or kind is refused and left alone",
        "revoke-all": "`revoke_all` skips nobody while lists change or lie, is ok only if its last look found nobody, and never means everybody",
        "where": "`where`, `keep_newest` and `user_id` spare whom they should; what can't say whom it means ends the run before anything is revoked",
    },
    "Tokens": {
        "judges": "Three other libraries judge as we do, but for a table of differences, each on purpose",
        "token-kinds": "Only session tokens sign anybody in: none of a JWT template, of a machine or of a category to come",
        "client-uat": "A browser that has signed out, or signed in anew, is believed before the session token that it still sends",
        "missing-azp": "A token without azp is refused unless that is allowed, a foreign one always; expiry is told first",
        "pending": "Pending sessions are let in by setting or by call, and a refused one tells who it is",
        "shared-refresh": "Requests with the same expired cookies, at the same time or up to 10 seconds later, share one refresh and its new cookies",
        "step-up": "Re-verification, plans and features follow Clerk's own rules",
        "forgeries": "Every forgery is refused, algorithms are pinned, two instances share nothing",
        "one-fetch": "One fetch for all who wait; unknown kids and bad signatures cost hardly any",
        "browser": "In a real browser a page that was left open stays signed in with one refresh, in two tabs; a sign-out in one tab is one in the other",
        "key-outage": "In an outage the last good keys serve, up to a stated age; then the state is unknown, not signed out, and the error tells its cause",
        "token-cache": "A remembered token is checked again each time and dies with its key",
        "token-versions": "Both token versions read alike; claims can't be changed",
        "any-request": "Any framework's request will do, several cookies too",
        "denied-at-once": "What was revoked or denied is refused at once by every verifier of the client; a run that ends early takes back what it never attempted",
        "look-ups": "A look at a session counts for as long as was asked, is shared, and never hides a failure",
        "webhooks": "A webhook is applied only if Clerk signed it, as of its own time, whatever its order; whatever a forger sends is our own error",
    },
    "Command line": {
        "exit-codes": "Exit codes as a table; wrong usage sends nothing; no option takes the key",
        "confirmation": "It asks above 25 sessions, and refuses where nobody can be asked",
        "cli-checks-first": "Key, service and journal are checked before anything is sent, in a dry run too",
        "cli-own-journal": "A run of more than 25 sessions keeps a journal of its own, and the printed command resumes with it",
        "cli-true-endings": "A run's end is told in numbers that add up; nothing that only waits is called failed, nothing that is live is called done",
        "interrupted-runs": "Ctrl-C finishes what is in flight and prints how to resume; a closed stdout is quiet",
        "inherited-signals": "SIGINT, SIGTERM and SIGHUP stop a run gently, unless they were ignored when it started",
        "second-ctrl-c": "A second Ctrl-C leaves at once, in the midst of a write too",
        "typed-messages": "Messages name options, never the library's parameters",
        "id-sources": "Ids come from lines, CSV and JSON lines of many kinds; a file that can't be read whole sends nothing, a bad line in a pipe ends the run with what was done",
        "cli-denials": "`deny` and `allow` take effect in other processes without the service, and say so if they can't",
        "cli-demo": "The demo locks a user out of another process, says how long it took, and leaves nothing behind however it ends",
        "doubted-key": "Where not one session is found, it doubts the key, and the exit code says so",
        "cli-whole-lists": "`list` is whole where a program reads it; for people each row is one line, however narrow the terminal is",
        "cli-list-read-back": "Nothing that `list` prints can make `revoke` act on another session",
        "cli-doctor": "`doctor` checks all that a run needs, and never prints the key",
        "help-and-completion": "Help answers at once; completion works in real shells",
    },
    "The fake service": {
        "any-sdk": "Any Clerk SDK works against it; every refusal of a refresh has its code; its window is exact",
        "fake-ends": "It ends wholly, also for those who were forked, and wherever Ctrl-C strikes",
        "fake-not-kinder": "Its tokens and cookies are no kinder than the service's: kinds, authorized parties, suffixes",
        "fake-webhooks": "It signs and sends events as Clerk does, one for each change of state",
        "try-it": "`fake-server` serves a made-up company or given sessions, with templates, faults and latency, to try everything on",
        "fake-claims": "Roles, permissions, features and plans are in its tokens as Clerk encodes them; `make_claims` returns the same without a token",
        "fake-plugin": "One server for all tests, begun anew for each; clients made at import use it, and forget",
        "frozen-time": "Where a test freezes time, tokens follow it, verifiers work, and nothing that waits waits forever",
        "fake-settings": "A wrong setting, session or fault is refused where it is written",
    },
    "The package": {
        "windows-names": "Nothing needs a name that Windows lacks",
        "public-surface": "Names, docs and layers are what they are said to be; imports are light",
        "readme-examples": "The README's examples run, its defaults are the real ones",
        "readme-app": "The README's FastAPI app runs as pasted, and so do its tests",
        "aioresponses": "aioresponses works for those who mock",
        "cost-of-a-call": "A call costs hardly more than bare aiohttp",
        "readme-figures": "The README's benchmark figures are those of the stored results",
    },
}


def proofs() -> dict[str, list[str]]:
    """Return the tests that prove each promise, by its key, in the order of their files."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for key in _keys_of(node):
                    found.setdefault(key, []).append(f"`{path.name}::{node.name}`")
    return found


def _keys_of(test: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    return [
        ast.literal_eval(key)
        for mark in test.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise"
        for key in mark.args
    ]


def table() -> str:
    """Return the table for README.md."""
    proved_by = proofs()
    rows: list[str] = []
    for heading, promises in PROMISES.items():
        rows.append(f"| **{heading}** | |")
        rows += [
            f"| {sentence} | {', '.join(proved_by.get(key, ()))} |"
            for key, sentence in promises.items()
        ]
    return HEAD + "\n".join(rows) + "\n"


def written() -> str:
    """Return the README with the table as it should be."""
    text = README.read_text(encoding="utf-8")
    return text[: text.index(HEAD)] + table()


if __name__ == "__main__":
    README.write_text(written(), encoding="utf-8")
