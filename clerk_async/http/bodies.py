"""Reads the body of an answer: unpacked, and never without bound.

We unpack it ourselves, because aiohttp gives up an answer whose encoding it doesn't know together
with its status and its headers: a refused key would look like a broken connection.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from clerk_async.errors import ResponseDecodeError

if TYPE_CHECKING:
    import aiohttp

MAX_BODY: Final = 64 * 2**20
"""Bytes of a body, unpacked, that are read at the most; a full page is 0.5 MB."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_ZLIB: Final = zlib.MAX_WBITS
_RAW: Final = -zlib.MAX_WBITS
_PACKINGS: Final = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
"""What we ask for (RFC 9110, section 8.4.1)."""
_NOT_ASKED_FOR: Final = frozenset({"br", "zstd", "compress", "x-compress"})
_GZIP_MAGIC: Final = b"\x1f"
_STEP: Final = 2**18
"""Bytes that are unpacked at once, so that a bomb is noticed early."""
_FIRST_ERROR_STATUS: Final = 300


async def read_body(response: aiohttp.ClientResponse, *, is_traced: bool) -> bytes:
    """Read a whole body.

    A short one has usually come with its head, and its connection is back in the pool already.

    Args:
        response: Whose.
        is_traced: Whether hooks of aiohttp's are to see its pieces.

    Raises:
        ResponseDecodeError: If it is too large, or isn't packed as its encoding says.
        aiohttp.ClientError: If the connection is lost.
    """
    length = response.content_length
    if length is not None and length <= MAX_BODY and "Content-Encoding" not in response.headers:
        content = response.content
        if content.is_eof() and response.connection is None and not is_traced:
            return content.read_nowait()
        return await response.read()
    packing = response.headers.get("Content-Encoding", "").strip().lower()
    unpacked = _Unpacked(packing, response.status)
    unpacked.check(length or 0)
    async for chunk in response.content.iter_any():
        unpacked.add(chunk)
    response.release()
    return unpacked.whole()


class _Unpacked:
    """A body that arrives piece by piece."""

    def __init__(self, packing: str, status: int) -> None:
        if packing in _NOT_ASKED_FOR and status < _FIRST_ERROR_STATUS:
            raise ResponseDecodeError(
                f"the body of the answer is encoded as {packing}, which we did not ask for",
                status=status,
            )
        self._status = status
        self._format = _PACKINGS.get(packing)
        self._stream: zlib._Decompress | None = None
        self._is_complete = False
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, packed: bytes) -> None:
        """Take the next piece."""
        if self._format is None:
            self._keep(packed)
            return
        try:
            while packed:
                packed = self._unpack(packed)
        except zlib.error:
            raise self._not_as_it_says() from None

    def _unpack(self, packed: bytes) -> bytes:
        """Unpack up to the end of the piece or of a member; return what follows."""
        stream = self._stream
        if stream is None:
            if self._is_complete and not packed.startswith(_GZIP_MAGIC):
                return b""  # padding, as gzip ignores it
            if self._format == _ZLIB and packed[0] & 0x0F != zlib.DEFLATED:
                self._format = _RAW  # as some servers understand "deflate"
            self._stream = stream = zlib.decompressobj(self._format or 0)
        while True:
            piece = stream.decompress(packed, _STEP)
            self._keep(piece)
            if stream.eof:  # a further member may follow (RFC 1952, section 2.2)
                self._stream, self._is_complete = None, True
                return stream.unused_data
            packed = stream.unconsumed_tail
            if not packed and len(piece) < _STEP:
                return b""

    def _keep(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        self.check(self._size)

    def check(self, size: int) -> None:
        """Refuse a size that nobody needs."""
        if size > MAX_BODY:
            raise ResponseDecodeError(
                f"the body of the answer is larger than {MAX_BODY} bytes", status=self._status
            )

    def whole(self) -> bytes:
        """Return it all, once nothing follows."""
        if self._stream is not None:
            raise self._not_as_it_says()
        return b"".join(self._pieces)

    def _not_as_it_says(self) -> ResponseDecodeError:
        return ResponseDecodeError(
            "the body of the answer isn't what its encoding says", status=self._status
        )
