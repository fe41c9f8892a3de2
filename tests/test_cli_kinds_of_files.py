"""Ids from all kinds of files: every encoding, line ending, delimiter and heading."""

from __future__ import annotations

import asyncio
import codecs
import os
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clerk_async.cli.exits import Refused
from clerk_async.cli.inputs import Ids, ids_from

if TYPE_CHECKING:
    from pathlib import Path

    from cli_programs import InProcess

pytestmark = pytest.mark.may_block  # a command opens its files before its loop runs

IDS = ["sess_1", "sess_2", "sess_3"]
PLAIN = "sess_1\nsess_2\nsess_3\n"
TABLE = 'name,Session ID,note\n"Å, B",sess_1,x\n"C ""D""\nE",sess_2,\n,sess_3,y\n'
ENCODINGS = (
    *("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"),
    *("utf-32-be", "utf-16-le-sig", "utf-16-be-sig", "utf-32-be-sig"),
)
MARKS = {
    "utf-16-le-sig": codecs.BOM_UTF16_LE,
    "utf-16-be-sig": codecs.BOM_UTF16_BE,
    "utf-32-be-sig": codecs.BOM_UTF32_BE,
}


def encoded(text: str, encoding: str) -> bytes:
    """Encode a text; `-sig` puts a byte order mark in front."""
    if encoding in MARKS:
        return MARKS[encoding] + text.encode(encoding.removesuffix("-sig"))
    return text.encode(encoding)


def open_file(path: Path, column: str | None = None, *, of_users: bool = False) -> Ids:
    """Open a file as the commands do."""
    option = "--users-from" if of_users else "--from"
    return ids_from((), str(path), column, what="ids", option=option)


def through_a_pipe(content: bytes, column: str | None, sizes: list[int]) -> list[str]:
    """Read from a pipe into which chunks of these sizes are written."""
    read_end, write_end = os.pipe()

    def write() -> None:
        rest = content
        with open(write_end, "wb") as file:  # noqa: PTH123 - a descriptor
            for size in sizes:
                file.write(rest[:size])
                file.flush()
                rest = rest[size:]
            file.write(rest)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        ids = ids_from((), f"/dev/fd/{read_end}", column, what="ids", option="--from")
        return ids.all()
    finally:
        writer.join()
        os.close(read_end)


@pytest.mark.promise("id-sources")
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("text", "column"), [(PLAIN, None), (TABLE, "session id")])
def test_every_encoding_and_line_ending_is_read(
    tmp_path: Path, text: str, column: str | None, encoding: str, ends: str
) -> None:
    """As PowerShell, Excel, old Macs and databases write them, without any option."""
    path = tmp_path / "ids"
    path.write_bytes(encoded(text.replace("\n", ends), encoding))
    ids = open_file(path, column)
    assert (ids.total, ids.all()) == (3, IDS)
    assert through_a_pipe(path.read_bytes(), column, [1, 1, 1, 2, 1]) == IDS


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("id,n\rsess_1,a\rsess_2,b\rsess_3,c", "id"),
        ("n;id\r1,5;sess_1\r2;sess_2\r;sess_3\r", "id"),
        ("n\tid\r1\tsess_1\r2\tsess_2\r3\tsess_3", "id"),
        ("n|id\n1|sess_1\n2|sess_2\n|sess_3\n", "id"),
        ("sep=;\r\nid;n\r\nsess_1;1,2\r\nsess_2;\r\nsess_3;\r\n", "id"),
        ('"sep=|"\nid|n\nsess_1|1,2;3\nsess_2|\nsess_3|\n', "id"),
        ("sep=\t\r\nn\tid\r\n1\tsess_1\r\n2\tsess_2\r\n3\tsess_3\r\n", "id"),
        ("\n\n  \nid\nsess_1\nsess_2\nsess_3\n", "id"),
        ("id\nsess_1\n\n\nsess_2\n\nsess_3", "id"),
        ("ID\nsess_1\nsess_2\nsess_3\n", "id"),
        ("  Session Id  ,x\nsess_1,\nsess_2,\nsess_3,\n", "SESSION ID"),
        ("STRASSE,id\n,sess_1\n,sess_2\n,sess_3\n", "Id"),
        ("id,Id2\nsess_1,x\nsess_2,y\nsess_3,z\n", "ID"),
        ("ID,id\nx,sess_1\ny,sess_2\nz,sess_3\n", "id"),
        ('"id"\n"sess_1"\n"sess_2"\n"sess_3"\n', "id"),
        ("id, n\n sess_1 , a\n sess_2, b\n sess_3, c\n", "id"),
        ("id,n,\nsess_1,a,\nsess_2,b,,,\nsess_3,c,\n", "id"),
        ('id,n\nsess_1,"a\n\nb"\nsess_2,"\r\n"\nsess_3,"\r"\n', "id"),
        ("id," + "x" * 300_000 + "\nsess_1,a\nsess_2,b\nsess_3,c\n", "id"),
        ("id,n\nsess_1," + "x" * 3_000_000 + "\nsess_2,a\nsess_3,b\n", "id"),
        ('n,id\n"' + "x\n" * 200_000 + '",sess_1\n,sess_2\n,sess_3\n', "id"),
        ('{"ID": "sess_1"}\n{"Id": "sess_2"}\n{"id": "sess_3"}', "id"),
        ('{"id": "sess_1", "m": {"id": 5}}\r\n{"id": "sess_2"}\r{"id": "sess_3"}', "id"),
        ('{"id": "sess_1", "m": "' + "x" * 300_000 + '"}\n{"id":"sess_2"}\n{"id":"sess_3"}', "id"),
        ("session_id\nsess_1\nsess_2\nsess_3\n", None),
        ('"Session ID"\n"sess_1"\n"sess_2"\n"sess_3"\n', "session id"),
        ("# exported\nSESSION\nsess_1\n# half\nsess_2\nsess_3", None),
        ("\ufeffsess_1\nsess_2\nsess_3", None),
        ("\xa0sess_1\xa0\n\tsess_2\t\nsess_3\u3000\n", None),
        ("SESSION\tSTATUS\tUSER\nsess_1\ta\tu\nsess_2\ta\tu\nsess_3\ta\tu\n", None),
        ("id,status,user_id,x\nsess_1,a,u,\nsess_2,a,u,\nsess_3,a,u,\n", None),
        (
            '{"object":"session","id":"sess_1"}\n{"id":"sess_2"}\n{"id":"sess_3"}\n',
            None,
        ),
    ],
    ids=lambda value: ascii(value)[:50],
)
def test_tables_of_many_kinds_are_read(tmp_path: Path, text: str, column: str | None) -> None:
    """Delimiters, headings in any case, `sep=` lines, huge cells, lone carriage returns."""
    path = tmp_path / "ids"
    path.write_bytes(text.encode())
    ids = open_file(path, column)
    assert (ids.total, ids.all()) == (3, IDS)
    assert through_a_pipe(path.read_bytes(), column, [7, 100]) == IDS


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp437", "shift-jis", "gbk", "koi8-r"])
def test_names_in_a_legacy_encoding_do_not_disturb_ids(tmp_path: Path, encoding: str) -> None:
    """Ids are ASCII in all encodings; the names don't matter."""
    name = {"shift-jis": "表示", "gbk": "中文", "koi8-r": "Имя"}.get(encoding, "Å é ü")
    path = tmp_path / "ids"
    path.write_bytes(f"id,{name}\nsess_1,{name}\nsess_2,\nsess_3,{name}\n".encode(encoding))
    assert open_file(path, "id").all() == IDS


def test_a_pipe_in_many_chunks_is_read_like_a_file() -> None:
    """A character, a CR LF or a byte order mark may be split."""

    @settings(max_examples=60)
    @given(
        sizes=st.lists(st.integers(1, 9), max_size=20),
        encoding=st.sampled_from(ENCODINGS),
        ends=st.sampled_from(["\n", "\r\n", "\r"]),
    )
    def check(sizes: list[int], encoding: str, ends: str) -> None:
        content = encoded(TABLE.replace("\n", ends), encoding)
        assert through_a_pipe(content, "session id", sizes) == IDS

    check()


@pytest.mark.parametrize(
    ("text", "column", "skipped"),
    [
        ("id,n\nsess_1,a\n,b\nsess_2,c\n  ,d\nsess_3,e\n,\n", "id", 2),
        ("n,id\na,sess_1\nb\nc,sess_2\nd,sess_3\n", "id", 1),
        (
            '{"id": "sess_1"}\n{"id": null}\n{"id": ""}\n{}\n{"id":"sess_2"}\n{"id":"sess_3"}',
            "id",
            3,
        ),
    ],
)
def test_empty_cells_are_skipped_and_counted(
    tmp_path: Path, text: str, column: str, skipped: int
) -> None:
    """Rows of users without a session are no reason to stop."""
    path = tmp_path / "ids"
    path.write_text(text)
    ids = open_file(path, column)
    assert (ids.total, ids.tally.skipped, ids.all()) == (3, skipped, IDS)


def test_the_end_of_a_run_reports_how_many_were_skipped(cli: InProcess, tmp_path: Path) -> None:
    """It reports this to people and to programs."""
    made = [cli.fake.add_session().id for _ in range(2)]
    path = tmp_path / "ids.csv"
    path.write_text(f"id,n\n{made[0]},a\n,b\n{made[1]},c\n,d\n")
    arguments = ("revoke", "--from", str(path), "--column", "ID")
    assert "2 rows have an empty cell" in cli(*arguments).err
    assert cli("--json", *arguments).records[-1]["skipped"] == 2


@pytest.mark.parametrize(
    ("content", "column", "told"),
    [
        (b"sess_1\0\nsess_2\n", None, "line 1"),
        (b"sess_1\nsess\0_2\n", None, "NUL characters"),
        (b"\xff\xfes\0e\0s\0s\0_\0001\0\n", None, "UTF-16"),
        (b"\xff\xfe\0\xd8\n\0", None, "UTF-16"),
        (b"sess_1\nsess_\xff\n", None, "line 2"),
        (b"PK\x03\x04\x14\0\6\0", "id", "save the sheet as CSV"),
        (b"id,n\nsess_1,a,b\n", "id", "more cells than the header"),
        (b'id,n\nsess_1,"a\nsess_2,b\n', "id", "line 3"),
        (b'id,n\nsess_1,"a"b\n', "id", "line 2"),
        (b"id,n\nsess_1,a\n", "session", "it has id, n"),
        (b"id;n\nsess_1;a\n", "session", "it has id, n"),
        (b"id\nsess_1\n", "", "no column ''"),
        (b"[1]\n", "id", "jq -c '.[]'"),
        (b'{\n  "id": 1\n}\n', "id", "jq -c ."),
        (b'{"id": ["sess_1"]}\n', "id", "no text in 'id'"),
        (b'{"id": "a", "ID": "b"}\n', "Id", "2 columns"),
        (b'"sess_1","sess_2"\n', None, "more than one id"),
        (b"sess_1|sess_2\n", None, "more than one id"),
        (b"sess_1 sess_2\n", None, "more than one id"),
        (b"<ids>\n", None, "more than one id"),
        (b"'sess_1'\n", None, "more than one id"),
        (b'"sess_1,sess_2"\n', None, "more than one id"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_ambiguous_files_are_rejected(
    tmp_path: Path, content: bytes, column: str | None, told: str
) -> None:
    """Before anything is sent, with the line and a way out."""
    path = tmp_path / "ids"
    path.write_bytes(content)
    with pytest.raises(Refused) as refused:
        open_file(path, column)
    assert told in refused.value.message


def test_a_shifted_row_never_hides_a_session(cli: InProcess, tmp_path: Path) -> None:
    """An unquoted comma in a name moves another cell into the id column."""
    live = cli.fake.add_session().id
    path = tmp_path / "ids.csv"
    path.write_text(f"name,id\nDoe, John,{live}\n")
    ended = cli("revoke", "--from", str(path), "--column", "id")
    assert (ended.code, cli.fake.requests) == (2, [])


def test_users_are_found_in_a_list_of_sessions(tmp_path: Path) -> None:
    """revoke-all reads the users from the output of `list`."""
    path = tmp_path / "list"
    for text in (
        "SESSION\tSTATUS\tUSER\ns\ta\tuser_1\ns\ta\tuser_2\n",
        "id,status,user_id,x\ns,a,user_1,\ns,a,user_2,\n",
        '{"object":"session","id":"s","user_id":"user_1"}\n{"user_id":"user_2"}\n',
        "User ID\nuser_1\nuser_2\n",
    ):
        path.write_text(text)
        assert open_file(path, of_users=True).all() == ["user_1", "user_2"]


async def test_typed_input_is_read_line_by_line_in_utf_16_too() -> None:
    """No line waits for a full chunk."""
    read_end, write_end = os.pipe()
    os.write(write_end, "sess_1\r\n".encode("utf-16"))
    ids = ids_from((), f"/dev/fd/{read_end}", None, what="ids", option="--from")
    reading = ids.read(asyncio.Event().wait)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert await anext(reading) == "sess_1"
    os.write(write_end, "sess_2\r\n".encode("utf-16-le"))
    assert await anext(reading) == "sess_2"
    os.close(write_end)
    with pytest.raises(StopAsyncIteration):
        await anext(reading)
    os.close(read_end)
