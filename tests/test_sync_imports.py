"""The threads of a sync client never import anything.

Ctrl-C during an import in the main thread can leave the interpreter's import lock locked forever.
The main thread is not affected, but any other thread waits forever in its next import of a new
module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from programs import run_program

from clerk_async.testing import Fault

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("each_programs_loop")]

AS_AFTER_CTRL_C: Final = """
import _imp, faulthandler, os, sys
faulthandler.dump_traceback_later(50, exit=True)
from clerk_async import *
_imp.acquire_lock()
token, expired, refresh_token, *ids = sys.argv[1:]
"""
USES: Final = {
    "calls": """
with SessionsApi() as client:
    client.get(ids[0])
    client.refresh(ids[0], expired_token=expired, refresh_token=refresh_token,
                   request_origin="http://localhost:3000")
    list(client.iterate(user_id="user_1", page_size=1))
    client.deny(user_id="user_2")
""",
    "a name": """
with SessionsApi(base_url=os.environ["CLERK_API_URL"].replace("127.0.0.1", "localhost")) as client:
    client.get(ids[0])
""",
    "an answer that can't be read": """
with SessionsApi() as client:
    try:
        client.create_token(ids[0])
    except ResponseDecodeError:
        pass
""",
    "bulk runs": """
with SessionsApi() as client:
    client.revoke_many(ids[:1], journal=ids[0] + ".jsonl")
    os.unlink(ids[0] + ".jsonl")
    client.revoke_many(iter(ids[1:]), on_outcome=print, on_progress=lambda _: None)
    next(client.revoke_stream(ids))
    client.revoke_all(user_ids=["user_1"], where=lambda _: True)
""",
    "a verifier with a client": """
with SessionsApi() as client:
    verifier = TokenVerifier(sessions=client, authorized_parties=None)
    verifier.verify(token, check_session=True)
""",
    "a verifier by itself": """
verifier = TokenVerifier(issuer=os.environ["CLERK_API_URL"].removesuffix("/v1"))
verifier.verify(token)
""",
}


@pytest.mark.promise("interruptions")
@pytest.mark.parametrize("use", USES)
def test_no_thread_of_ours_waits_for_the_import_lock(use: str, fake: FakeClerk) -> None:
    """Everything works at first use, even while the main thread holds the lock."""
    sessions = [fake.add_session(user_id="user_1") for _ in range(3)]
    fake.inject(Fault.wrong_shape(operation="create_token", count=None))
    ended = run_program(
        AS_AFTER_CTRL_C + USES[use],
        fake,
        fake.mint(sessions[0], expires_in=600),
        fake.expired_token(sessions[0]),
        fake.refresh_token_for(sessions[0].id),
        *(session.id for session in sessions),
    )
    assert ended.code == 0, ended.err
