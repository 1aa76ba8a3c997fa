"""NETCONF message framing over SSH, without I/O.

A :class:`FrameReader` takes bytes in any portions and gives whole messages. It starts with
end-of-message framing (RFC 6242 section 4.3), which every ``<hello>`` uses, and is switched to
chunked framing (section 4.2) once both peers have announced ``base:1.1``; bytes that were received
already are then read with the new framing. :func:`encode` is the way back.

A :exc:`FramingError` is final: the session has to be ended (RFC 6242 section 4.2).
"""

from __future__ import annotations

END_OF_MESSAGE = b"]]>]]>"
END_OF_CHUNKS = b"\n##\n"
MAX_CHUNK_BYTES = 4_294_967_295
"""Largest chunk-size (RFC 6242 section 4.2)."""
DEFAULT_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Default bound of one received message; a longer one ends the session."""

_MAX_SIZE_DIGITS = len(str(MAX_CHUNK_BYTES))


class FramingError(Exception):
    """The peer broke the framing, or sent a message longer than the configured bound."""


class FrameReader:
    """Splits a byte stream into messages.

    Use: :meth:`feed` what was received, then :meth:`next_message` until it returns None.
    """

    def __init__(self, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        if max_message_bytes < 1:
            raise ValueError(f"max_message_bytes must be positive, not {max_message_bytes}")
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray()
        self._scanned = 0
        self._chunked = False
        self._body = bytearray()
        self._chunk_left: int | None = None
        self._chunks = 0

    @property
    def chunked(self) -> bool:
        """Whether chunked framing is in use."""
        return self._chunked

    @property
    def pending_bytes(self) -> int:
        """Bytes received that belong to no complete message yet."""
        return len(self._buffer) + len(self._body)

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._buffer += data

    def switch_to_chunked(self) -> None:
        """Read everything from here on, also what is buffered, as chunks."""
        self._chunked = True
        self._scanned = 0

    def next_message(self) -> bytes | None:
        """The next whole message without its framing, or None if more bytes are needed.

        :raises FramingError: the stream cannot be decoded any further.
        """
        return self._next_chunked() if self._chunked else self._next_delimited()

    def _next_delimited(self) -> bytes | None:
        end = self._buffer.find(END_OF_MESSAGE, self._scanned)
        if (len(self._buffer) if end < 0 else end) > self._max_message_bytes + (
            len(END_OF_MESSAGE) - 1 if end < 0 else 0
        ):
            raise self._too_long()
        if end < 0:
            self._scanned = max(0, len(self._buffer) - len(END_OF_MESSAGE) + 1)
            return None
        message = bytes(self._buffer[:end])
        del self._buffer[: end + len(END_OF_MESSAGE)]
        self._scanned = 0
        return message

    def _next_chunked(self) -> bytes | None:
        while True:
            if self._chunk_left is None:
                header = self._take_header()
                if header is None:
                    return None
                if header == 0:
                    message = bytes(self._body)
                    self._body.clear()
                    self._chunks = 0
                    return message
                if len(self._body) + header > self._max_message_bytes:
                    raise self._too_long()
                self._chunk_left = header
            taken = self._buffer[: self._chunk_left]
            del self._buffer[: len(taken)]
            self._body += taken
            self._chunk_left -= len(taken)
            if self._chunk_left:
                return None
            self._chunk_left = None
            self._chunks += 1

    def _take_header(self) -> int | None:
        """Size of the next chunk, 0 for the end of the message, None if bytes are missing."""
        buffer = self._buffer
        for index, expected in enumerate(b"\n#"):
            if len(buffer) <= index:
                return None
            if buffer[index] != expected:
                raise FramingError(
                    f"expected {'LF' if index == 0 else '#'} before a chunk, "
                    f"got byte 0x{buffer[index]:02x}"
                )
        if len(buffer) == 2:
            return None
        if buffer[2] == ord("#"):
            if len(buffer) == 3:
                return None
            if buffer[3] != ord("\n"):
                raise FramingError(f"expected LF after ##, got byte 0x{buffer[3]:02x}")
            if not self._chunks:
                raise FramingError("end of chunks without a chunk")
            del buffer[:4]
            return 0
        return self._take_size()

    def _take_size(self) -> int | None:
        buffer = self._buffer
        end = buffer.find(b"\n", 2, 2 + _MAX_SIZE_DIGITS + 1)
        digits = bytes(buffer[2:end] if end >= 0 else buffer[2 : 2 + _MAX_SIZE_DIGITS + 1])
        if digits and (not digits.isdigit() or digits.startswith(b"0")):
            raise FramingError(f"bad chunk size {digits.decode('ascii', 'backslashreplace')!r}")
        if end < 0:
            if len(digits) > _MAX_SIZE_DIGITS:
                raise FramingError(f"chunk size longer than {_MAX_SIZE_DIGITS} digits")
            return None
        if not digits:
            raise FramingError("bad chunk size ''")
        size = int(digits)
        if size > MAX_CHUNK_BYTES:
            raise FramingError(f"chunk size {size} above {MAX_CHUNK_BYTES}")
        del buffer[: end + 1]
        return size

    def _too_long(self) -> FramingError:
        return FramingError(f"message longer than {self._max_message_bytes} bytes")


def encode(message: bytes, *, chunked: bool) -> bytes:
    """Frame one message.

    :raises FramingError: the message is empty, too large for a chunk, or holds the end-of-message
        delimiter although that framing is in use.
    """
    if not message:
        raise FramingError("an empty message cannot be framed")
    if not chunked:
        if END_OF_MESSAGE in message:
            raise FramingError("message holds the end-of-message delimiter")
        return message + END_OF_MESSAGE
    if len(message) > MAX_CHUNK_BYTES:
        raise FramingError(f"message longer than {MAX_CHUNK_BYTES} bytes")
    return b"\n#%d\n%b" % (len(message), message) + END_OF_CHUNKS
