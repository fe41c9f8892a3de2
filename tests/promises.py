"""The promises to users, and the table of the tests that prove them.

A test proves a promise if it is marked `@pytest.mark.promise("key", …)`. After a change, run

    python tests/promises.py

which rewrites the table in README.md; `test_promises.py` fails while it is out of date.
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
        "books-agree": "Whatever the network does, the client's report matches the service's state: nothing is lost, nothing is reported that did not happen, and no connection, task, thread or file is left behind",
        "sent-once": "`create` and `refresh` are never sent twice if the first request may have arrived",
        "deadline": "A deadline covers the queue, all attempts and all waits, and is accurate to 5 %",
        "nothing-grows": "Memory, files, threads and tasks don't grow over the lives of many clients, and connections don't grow over the life of one",
        "hostile-input": "Every hostile response, error body, Retry-After, journal, token, cookie or command line ends in one of our own errors, in bounded time and memory",
    },
    "Secrets": {
        "redaction": "Text that looks like a secret is redacted wherever it appears",
        "no-secret-shown": "No log, repr, error, exception chain, warning, journal or pickle contains a key, JWT, refresh token, cookie or proxy credential",
        "no-secret-in-frames": "The local variables of our stack frames contain no key, proxy credential or cookie",
        "no-secret-printed": "The command line prints no secret",
        "no-pickled-clients": "Clients and verifiers refuse to be pickled or copied",
        "loopback": "Requests to loopback never go through a proxy, whether it is set by environment or argument and however the address is spelled, so no key leaves the machine",
        "raw-errors": "The raw value stays on `errors`, and errors can be passed between processes",
    },
    "Requests and answers": {
        "exact-requests": "Requests are exactly those of the contract",
        "checked-arguments": "An id can't change the path of a request, and bad arguments are never sent",
        "models-and-errors": "Every operation returns its model, and every status raises its error",
        "tolerant-decoding": "Nothing is coerced; a bad field costs only that field, a bad item only that item; unknown statuses stay readable",
        "quiet-log": "If the service drops a field, each client logs it once, not once for each session",
        "tools": "attrs, cattrs and tools that resolve type hints work on our values at any time",
        "json-values": "Values become JSON by `to_dict`, and by annotation in FastAPI and pydantic, with a schema; secrets don't",
        "both-lists": "Both shapes of a list response are read",
        "useless-bodies": "An unusable body raises ResponseDecodeError and never becomes an empty list",
        "complete-iteration": "`iterate` yields every session once, even if sessions end, begin or are revoked meanwhile and totals are wrong; an endless list raises an error",
        "own-answers": "Each call gets the response to its own request: a connection that received unexpected data is not used again",
        "readable-answers": "Headers up to 64 KiB are read, and gzip and deflate in all their forms",
        "unreadable-once": "A request whose response can't be parsed is sent once, and its error states the reason; an error status that was read counts",
        "bounded-answers": "No redirect is followed, no cookie is kept, and no body is read without a limit",
    },
    "Retries and time": {
        "retry-table": "The retry table is tested row by row, as rules and on the wire",
        "counted-sends": "Every send is counted; aiohttp's own resend is off",
        "fresh-retries": "After a lost connection or a timeout, the retry uses a fresh connection, and the idle ones are closed",
        "kept-connections": "An idle connection is kept for minutes, so a program with few calls does not reconnect for each one",
        "backoff": "Backoff has full jitter; a Retry-After is never undercut, and one that is too long raises at once",
        "retry-quota": "The retry quota prevents retries from tripling the load during an outage",
        "debug-lines": "Each call ends with one DEBUG line: operation, outcome, milliseconds, attempts, trace id",
        "shared-pause": "A 429 pauses the whole client",
        "pool-wait": "Waiting for the connection pool does not count against an attempt's timeout, and the error names the phase",
        "never-sent": "A connection that was never made is distinguished from one that was lost",
    },
    "Between processes": {
        "shared-limit": "All processes that use a key share one rate-limit window, including caps and single calls",
        "window-script": "The Redis script of the window agrees with a simple model of it, and scripts that break one of its rules do not",
        "pauses-of-all": "The pause after a 429, and what other clients leave of the limit, apply to all processes",
        "shared-denials": "All processes learn what one of them denies or allows, despite cut connections, forks, late starts and a Redis that lost its data; the later action wins",
        "unreadable-entries": "An unreadable entry of the feed is logged once and dropped",
        "closed-verifier": "A verifier with `denials_max_age` reports that it can't know, and never signs anybody out for that reason",
        "redis-away": "While Redis is unavailable, a process continues with its share of the limit, logs this once, and closes in bounded time",
        "shared-settings": "Unusable shared-state settings are rejected at once, and programs that share nothing load none of its code",
        "nothing-secret-shared": "Redis stores no key, token, cookie or password, and no message about Redis shows one",
    },
    "Life of a client": {
        "lazy-construction": "Making a client needs no event loop and does no I/O",
        "dead-loops": "A client abandons a closed event loop, and rejects calls from a second running one",
        "closing": "Closing ends calls in flight, queued calls and waits",
        "cancellation": "Cancellation is never swallowed, and it frees the connection",
        "token-source": "A token source makes one request for all callers, ahead of the token's expiry, and survives a short outage",
        "views": "Views share the connection pool and don't close it; the user's own aiohttp session stays open",
        "own-client-session": "The user's own aiohttp session changes no error and no body, however it was configured",
        "aiohttp-internals": "If aiohttp renames an internal, a test shows it and no call breaks",
        "settings": "Settings come from the argument, then the environment, then the default; the key is sent over plain HTTP only to this machine, unless that is allowed",
        "tls-and-proxies": "TLS failures are not retried, and their errors name the remedy; proxies are set by argument or environment",
    },
    "The sync client": {
        "sync-parity": "The sync client has the same names, parameters, results and docstrings",
        "unclosed-programs": "A program that never closes its client exits by itself, promptly and with its own exit code",
        "nobody-stranded": "No thread waits forever: not in a call that arrives as the loop ends, not in a callback when the client is closed, and not in a forked child that continues what its parent began",
        "sync-surroundings": "It works with forks, threads, Ctrl-C, running event loops and green threads",
        "interruptions": "Ctrl-C raises within milliseconds at any point, unless a request is in flight; the calls of other threads and later calls work, and nothing is left behind",
        "signal-handlers": "A signal handler may use or close a client at any point of the main thread in our code",
        "asyncio-only": 'Under trio, or without an event loop, every entry point says "asyncio only"',
        "caller-thread": "A call from the client's own loop raises a clear error; callbacks run in the caller's thread",
        "many-threads": "Sixteen threads share clients and verifiers, with and without the GIL",
        "real-servers": "It works in real servers, worker pools and notebooks",
        "sync-uvloop": "The sync client runs on uvloop if that is installed, safely under forks, and on asyncio otherwise, as in debug mode",
        "other-loops": "It works on uvloop and with eager tasks (Python 3.12)",
    },
    "Bulk revocation": {
        "true-outcomes": "A revocation takes one request per session if all goes well, and reports the true outcome if not",
        "any-input": "Any iterable works, even an endless one; memory does not grow; duplicates are sent once; a bad id is an outcome",
        "streams-end": "A stream always ends, whatever the timing of workers and reader",
        "pacing": "No rate-limit window of the service is exceeded, and little time is lost",
        "rounds": "A session that failed for a passing reason is tried again after a pause, which delays no other session",
        "stops": "A run stops for a rejected key, too many failures, a deadline, `should_stop` or cancellation, and finishes what is in flight",
        "kill-9": "kill -9 loses nothing and leaves no false outcome; a second run resumes",
        "foreign-journals": "A journal of another instance or kind is rejected and left unchanged",
        "revoke-all": "`revoke_all` skips nobody when lists change or are wrong, is ok only if its last look found nobody, and never means every user",
        "where": "`where`, `keep_newest` and `user_id` spare the right sessions; if they can't decide, the run ends before anything is revoked",
    },
    "Tokens": {
        "judges": "Three other libraries reach the same verdicts, except for a table of deliberate differences",
        "token-kinds": "Only session tokens sign a user in: tokens of JWT templates, machine tokens and unknown future kinds do not",
        "client-uat": "If the browser has signed out or signed in again, that overrides the session token that it still sends",
        "missing-azp": "A token without azp is rejected unless that is allowed, and one with a foreign azp always; expiry is reported first",
        "pending": "Pending sessions are accepted if a setting or the call says so, and a rejected one still names its user",
        "shared-refresh": "Requests with the same expired cookies, at the same time or up to 10 seconds later, share one refresh and its new cookies",
        "step-up": "Reverification, plans and features follow Clerk's own rules",
        "forgeries": "Every forgery is rejected, algorithms are pinned to keys, and two instances share nothing",
        "one-fetch": "All waiting callers share one fetch of the keys; unknown kids and bad signatures cause almost none",
        "browser": "In a real browser, a page that is left open stays signed in with one refresh, in two tabs; signing out in one tab signs out the other",
        "key-outage": "In an outage the last good keys are used up to a stated age; after that the state is unknown, not signed out, and the error names the cause",
        "token-cache": "A cached token is checked again each time, and is dropped with its key",
        "token-versions": "Both token versions produce the same claims, and claims can't be changed",
        "any-request": "Requests of any framework work, even with several session cookies",
        "denied-at-once": "Every verifier of the client rejects at once what was revoked or denied; a run that ends early takes back the denials of sessions that it never attempted",
        "look-ups": "The result of checking a session with the service is reused for as long as was asked, is shared, and never hides a failure",
        "webhooks": "A webhook is applied only if Clerk signed it, by its own timestamp, in any order; whatever a forger sends raises one of our own errors",
    },
    "Command line": {
        "exit-codes": "Exit codes follow a table; wrong usage sends nothing; no option takes the key",
        "confirmation": "Above 25 sessions it asks for confirmation, and refuses if nobody can be asked",
        "cli-checks-first": "Key, service and journal are checked before anything is sent, in a dry run too",
        "cli-own-journal": "A run of more than 25 sessions keeps a journal automatically, and the printed command resumes with it",
        "cli-true-endings": "The summary of a run has numbers that add up: sessions that are only waiting are not called failed, and live sessions are not called done",
        "interrupted-runs": "Ctrl-C finishes what is in flight and prints how to resume; a closed stdout causes no error message",
        "inherited-signals": "SIGINT, SIGTERM and SIGHUP stop a run gracefully, unless they were ignored when it started",
        "second-ctrl-c": "A second Ctrl-C exits at once, even in the middle of a write",
        "typed-messages": "Messages name the options, never the library's parameters",
        "id-sources": "Ids come from lines, CSV or JSON lines of many kinds; a file that can't be read completely sends nothing, and a bad line in a pipe ends the run with a report of what was done",
        "cli-denials": "`deny` and `allow` take effect in other processes without the service, and say so if they can't",
        "cli-demo": "The demo locks a user out of another process, says how long that took, and leaves nothing behind however it ends",
        "doubted-key": "If not one session is found, it suspects the wrong key, and the exit code shows it",
        "cli-whole-lists": "`list` prints complete values for programs; for people each row is one line, however narrow the terminal is",
        "cli-list-read-back": "Nothing that `list` prints can make `revoke` act on another session",
        "cli-doctor": "`doctor` checks everything that a run needs, and never prints the key",
        "help-and-completion": "Help is printed at once; completion works in real shells",
    },
    "The fake service": {
        "any-sdk": "Any Clerk SDK works with it; every rejected refresh has its error code; its rate-limit window is exact",
        "fake-ends": "It stops completely, even after forks and wherever Ctrl-C interrupts it",
        "fake-not-kinder": "Its tokens and cookies are as strict as the service's: kinds, authorized parties, suffixes",
        "fake-webhooks": "It signs and sends events as Clerk does, one for each change of state",
        "try-it": "`fake-server` serves an invented company or given sessions, with templates, faults and latency, so that everything can be tried on it",
        "fake-claims": "Its tokens contain roles, permissions, features and plans as Clerk encodes them; `make_claims` returns the same without a token",
        "fake-plugin": "One server serves all tests and is reset for each; clients made at import use it, and keep no state between tests",
        "frozen-time": "If a test freezes time, tokens follow it, verifiers work, and no wait lasts forever",
        "fake-settings": "A wrong setting, session or fault is rejected where it is written",
    },
    "The package": {
        "windows-names": "Nothing needs a name that Windows lacks",
        "extras": "An extra that is missing is named; one that is installed but broken is never called missing, and the message says what is wrong with it",
        "public-surface": "Names, docstrings and layers match their description; imports are light",
        "readme-examples": "The README's examples run, and its defaults are the real ones",
        "websockets": "The example of a WebSocket ends with its session, and not with its token",
        "migration-table": "The README's migration table has each call, argument, option, error and reason of the official SDK",
        "readme-app": "The README's FastAPI app and its tests run as pasted",
        "aioresponses": "Tests can mock responses with aioresponses",
        "cost-of-a-call": "A call costs no more than with bare aiohttp",
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
    """Return the README with the current table."""
    text = README.read_text(encoding="utf-8")
    return text[: text.index(HEAD)] + table()


if __name__ == "__main__":
    README.write_text(written(), encoding="utf-8")
