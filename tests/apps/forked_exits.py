"""Forks while a call is in flight; the child makes a call too, and exits as argv[1] says."""

import os
import signal
import sys
import threading

from clerk_async import SessionsApi

sessions = SessionsApi()
session_id, way = sys.argv[2], sys.argv[1]
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
sessions.list(user_id="user_of_the_parent")
in_flight = threading.Thread(target=sessions.revoke, args=(session_id,))
in_flight.start()
signal.sigwait({signal.SIGUSR1})  # sent once the service has that thread's call
pid = os.fork()
if pid == 0:
    print(sessions.get("sess_of_child").id, flush=True)
    if way == "exception":
        raise LookupError("a bug in the child")
    if way == "os._exit":
        os._exit(7)
    sys.exit(7)
_, status = os.waitpid(pid, 0)
print("child ended with", os.waitstatus_to_exitcode(status), flush=True)
in_flight.join()
print(sessions.get(session_id).status, flush=True)
sys.exit(5)
