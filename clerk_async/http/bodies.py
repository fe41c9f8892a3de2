"""Reads and decompresses the body of a response, up to a limit.

We decompress it ourselves because aiohttp discards a response with an unknown encoding, along with
its status and headers: a rejected key would look like a broken connection.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Final

from clerk_async.errors import ResponseDecodeError

if TYPE_CHECKING:
    import aiohttp

MAX_BODY: Final = 64 * 2**20
"""The most bytes of a body to read, decompressed; a full page is 0.5 MB."""

_PREPARED: Final = 2**20
"""The longest body that gets its memory before it arrives, on the word of its sender."""
_GZIP: Final = 16 + zlib.MAX_WBITS
_ZLIB: Final = zlib.MAX_WBITS
_RAW: Final = -zlib.MAX_WBITS
_PACKINGS: Final = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
"""The encodings that we accept (RFC 9110, section 8.4.1)."""
_NOT_ASKED_FOR: Final = frozenset({"br", "zstd", "compress", "x-compress"})
_GZIP_MAGIC: Final = b"\x1f"
_STEP: Final = 2**18
"""Bytes to decompress at once, so that a decompression bomb is noticed early."""
_FIRST_ERROR_STATUS: Final = 300


async def read_body(response: aiohttp.ClientResponse, *, is_traced: bool) -> bytes:
    """Read a whole body.

    A short body has usually arrived with its head, and its connection is already back in the pool.

    Args:
        response: The response to read from.
        is_traced: Whether aiohttp's hooks should see the chunks.

    Raises:
        ResponseDecodeError: If the body is too large, or doesn't match its encoding.
        aiohttp.ClientError: If the connection is lost.
    """
    length = response.content_length
    if length is not None and length <= MAX_BODY and "Content-Encoding" not in response.headers:
        content = response.content
        if content.is_eof() and response.connection is None and not is_traced:
            return content.read_nowait()
        if is_traced or length > _PREPARED:
            return await response.read()
        return await _read_in_place(response, length)
    packing = response.headers.get("Content-Encoding", "").strip().lower()
    unpacked = _Unpacked(packing, response.status)
    unpacked.check(length or 0)
    async for chunk in response.content.iter_any():
        unpacked.add(chunk)
    response.release()
    return unpacked.whole()


async def _read_in_place(response: aiohttp.ClientResponse, length: int) -> bytes:
    """Read a body of a known length, and write each piece to its place.

    Collecting the pieces and joining them would take twice the memory. malloc would return that to
    the system after each response, and the next one would cause a page fault for every 4 KiB.
    """
    whole = BytesIO()
    whole.seek(length)
    whole.write(b"0")
    whole.seek(0)
    async for piece in response.content.iter_any():
        whole.write(piece)
    response.release()
    whole.truncate()
    return whole.getvalue()  # without a copy


class _Unpacked:
    """A body that arrives in chunks."""

    def __init__(self, packing: str, status: int) -> None:
        if packing in _NOT_ASKED_FOR and status < _FIRST_ERROR_STATUS:
            raise ResponseDecodeError(
                f"the response body is encoded as {packing}, which the client did not accept",
                status=status,
            )
        self._status = status
        self._format = _PACKINGS.get(packing)
        self._stream: zlib._Decompress | None = None
        self._is_complete = False
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, packed: bytes) -> None:
        """Add the next chunk."""
        if self._format is None:
            self._keep(packed)
            return
        try:
            while packed:
                packed = self._unpack(packed)
        except zlib.error:
            raise self._not_as_it_says() from None

    def _unpack(self, packed: bytes) -> bytes:
        """Decompress up to the end of the chunk or of a gzip member; return the rest."""
        stream = self._stream
        if stream is None:
            if self._is_complete and not packed.startswith(_GZIP_MAGIC):
                return b""  # padding, which gzip ignores too
            if self._format == _ZLIB and packed[0] & 0x0F != zlib.DEFLATED:
                self._format = _RAW  # some servers send this as "deflate"
            self._stream = stream = zlib.decompressobj(self._format or 0)
        while True:
            piece = stream.decompress(packed, _STEP)
            self._keep(piece)
            if stream.eof:  # another member may follow (RFC 1952, section 2.2)
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
        """Reject a body that is too large."""
        if size > MAX_BODY:
            raise ResponseDecodeError(
                f"the response body is larger than {MAX_BODY} bytes", status=self._status
            )

    def whole(self) -> bytes:
        """Return the whole body, after its last chunk."""
        if self._stream is not None:
            raise self._not_as_it_says()
        return b"".join(self._pieces)

    def _not_as_it_says(self) -> ResponseDecodeError:
        return ResponseDecodeError(
            "the response body doesn't match its Content-Encoding", status=self._status
        )
