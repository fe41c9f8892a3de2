"""Reading ids: as they arrive, and counted first if that is cheap."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import click
import pytest

from clerk_async.cli.exits import Refused
from clerk_async.cli.inputs import Ids, ids_from

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.may_block  # a command opens its files before its loop runs


def open_file(path: Path) -> Ids:
    """Open a file of ids, one a line."""
    return ids_from((), str(path), None, what="session ids", option="--from")


async def never() -> None:
    """Never ask to stop."""
    await asyncio.Event().wait()


async def read_all(ids: Ids) -> list[str]:
    """Read everything."""
    return [one async for one in ids.read(never)]


async def test_a_file_is_counted_first_and_read_completely(tmp_path: Path) -> None:
    """It has more lines than a batch or a chunk; blank lines and comments don't count."""
    path = tmp_path / "ids"
    expected = [f"sess_{number}" for number in range(20_000)]
    path.write_text("# leaked\n\n" + "\n".join(expected))
    ids = open_file(path)
    assert (ids.total, ids.has_more_than(25), ids.is_stdin) == (20_000, True, False)
    assert await read_all(ids) == expected
    assert not ids.was_cut_short


async def test_a_pipe_is_not_counted_and_nothing_read_ahead_is_lost(tmp_path: Path) -> None:
    """Process substitution, `--from <(…)`, passes a pipe."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    expected = [f"sess_{number}" for number in range(30)]
    writing = asyncio.get_running_loop().run_in_executor(
        None, lambda: path.write_text("\n".join(expected))
    )
    ids = await asyncio.to_thread(open_file, path)
    assert ids.total is None
    assert ids.has_more_than(25)
    assert await read_all(ids) == expected
    await writing


async def test_an_id_is_processed_before_the_next_arrives() -> None:
    """People who type ids see each one done at once."""
    read_end, write_end = os.pipe()
    ids = ids_from((), f"/dev/fd/{read_end}", None, what="session ids", option="--from")
    reading = ids.read(never)
    for number in range(3):
        os.write(write_end, f"sess_{number}\n".encode())
        assert await anext(reading) == f"sess_{number}"
    os.close(write_end)
    with pytest.raises(StopAsyncIteration):
        await anext(reading)
    os.close(read_end)


async def test_a_stop_ends_a_wait_for_more() -> None:
    """The input remembers that it was not read completely."""
    read_end, write_end = os.pipe()
    ids = ids_from((), f"/dev/fd/{read_end}", None, what="session ids", option="--from")
    stop = asyncio.Event()

    async def stopped() -> None:
        await stop.wait()

    reading = asyncio.ensure_future(anext(ids.read(stopped), None))
    await asyncio.sleep(0)
    stop.set()
    assert await reading is None
    assert ids.was_cut_short
    os.close(write_end)
    os.close(read_end)


async def test_an_error_in_a_line_comes_after_the_ids_before_it(tmp_path: Path) -> None:
    """This holds for a pipe, which can't be checked first: a file is rejected as a whole."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"sess_1\nsess_2,x\n")
    os.close(write_end)
    ids = ids_from((), f"/dev/fd/{read_end}", None, what="session ids", option="--from")
    reading = ids.read(never)
    assert [session_id async for session_id in reading] == ["sess_1"]
    assert "line 2" in str(ids.trouble)
    os.close(read_end)
    path = tmp_path / "ids"
    path.write_text("sess_1\nsess_2,x\n")
    with pytest.raises(Refused, match="line 2"):
        open_file(path)


def test_a_folder_is_rejected(tmp_path: Path) -> None:
    """The message names it."""
    with pytest.raises(Refused, match="is a folder"):
        open_file(tmp_path)


def test_arguments_and_a_file_are_rejected_together(tmp_path: Path) -> None:
    """A command with neither is rejected too."""
    for arguments, path in ((("sess_1",), str(tmp_path)), ((), None)):
        with pytest.raises(click.UsageError):
            ids_from(arguments, path, None, what="session ids", option="--from")
