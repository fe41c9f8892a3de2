"""A script that signs users out from a process pool; argv: start method, then user ids."""

import multiprocessing
import sys

from clerk_async import ClerkError, SessionsApi

sessions = SessionsApi()


def sign_out_everywhere(user_id: str) -> int:
    return sessions.revoke_all(user_id=user_id).revoked


def fail(session_id: str) -> str:
    return sessions.get(session_id).id


def main() -> None:
    context = multiprocessing.get_context(sys.argv[1])
    sessions.list(user_id="user_of_the_parent")  # makes the loop, its thread and a connection
    with context.Pool(2) as pool:
        print(sum(pool.map(sign_out_everywhere, sys.argv[2:], chunksize=1)))
        try:
            pool.apply(fail, ("sess_unknown",))
        except ClerkError as error:
            print(type(error).__name__)
        pool.close()
        pool.join()
    print(len(sessions.list(user_id="user_of_the_parent")))


if __name__ == "__main__":
    main()
