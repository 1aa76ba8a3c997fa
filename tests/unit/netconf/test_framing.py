"""Framing: RFC 6242 sections 4.2 and 4.3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.netconf_server.framing import FrameReader, FramingError, encode

EXAMPLE = b'\n#4\n<rpc\n#18\n message-id="102"\n\n#7\n></rpc>\n##\n'


def read(reader: FrameReader, data: bytes, splits: list[int]) -> list[bytes]:
    """Feed in pieces of the given sizes, then the rest; all messages that came out."""
    messages: list[bytes] = []
    for size in [*splits, len(data)]:
        reader.feed(data[:size])
        data = data[size:]
        while (message := reader.next_message()) is not None:
            messages.append(message)
    return messages


bodies = st.lists(st.binary(min_size=1, max_size=80), max_size=6)
pieces = st.lists(st.integers(0, 9), max_size=60)


@given(bodies, pieces)
def test_chunked_round_trip_however_it_is_split(messages: list[bytes], splits: list[int]) -> None:
    reader = FrameReader()
    reader.switch_to_chunked()
    stream = b"".join(encode(message, chunked=True) for message in messages)
    assert read(reader, stream, splits) == messages
    assert reader.pending_bytes == 0


@given(bodies, pieces)
def test_delimited_round_trip_however_it_is_split(messages: list[bytes], splits: list[int]) -> None:
    messages = [message.replace(b"]", b"") + b"]]" for message in messages]
    reader = FrameReader()
    stream = b"".join(encode(message, chunked=False) for message in messages)
    assert read(reader, stream, splits) == messages


@given(st.binary(max_size=60), st.booleans(), st.lists(st.integers(1, 5), max_size=20))
def test_any_bytes_give_messages_or_a_framing_error(
    data: bytes, chunked: bool, splits: list[int]
) -> None:
    """Never another exception, and the outcome does not depend on how the bytes arrive."""
    outcomes = []
    for sizes in (splits, [1] * len(data), []):
        reader = FrameReader(max_message_bytes=20)
        if chunked:
            reader.switch_to_chunked()
        try:
            outcomes.append((read(reader, data, sizes), None))
        except FramingError:
            outcomes.append(([], "error"))
    assert [kind for _, kind in outcomes] == [outcomes[0][1]] * 3
    if outcomes[0][1] is None:
        assert outcomes[0] == outcomes[1] == outcomes[2]


def test_example_of_the_rfc() -> None:
    reader = FrameReader()
    reader.switch_to_chunked()
    assert read(reader, EXAMPLE, [1] * len(EXAMPLE)) == [b'<rpc message-id="102"\n></rpc>']


def test_switch_applies_to_bytes_already_received() -> None:
    reader = FrameReader()
    reader.feed(b"<hello/>]]>]]>" + EXAMPLE)
    assert reader.next_message() == b"<hello/>"
    reader.switch_to_chunked()
    assert reader.chunked
    assert reader.next_message() == b'<rpc message-id="102"\n></rpc>'
    assert reader.next_message() is None


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"<rpc", "expected LF before a chunk, got byte 0x3c"),
        (b"\n4", "expected # before a chunk, got byte 0x34"),
        (b"\n#0\n", "bad chunk size '0'"),
        (b"\n#04\n", "bad chunk size '04'"),
        (b"\n#\n", "bad chunk size ''"),
        (b"\n#-4\n", "bad chunk size '-4'"),
        (b"\n#4 \n", "bad chunk size '4 '"),
        (b"\n#\xff\n", r"bad chunk size '\\xff'"),
        (b"\n#4294967296\n", "chunk size 4294967296 above 4294967295"),
        (b"\n#42949672951", "chunk size longer than 10 digits"),
        (b"\n##\n", "end of chunks without a chunk"),
        (b"\n#1\na\n##x", "expected LF after ##, got byte 0x78"),
        (b"\n#1\nab", "expected LF before a chunk, got byte 0x62"),
        (b"\n#17\n", "message longer than 16 bytes"),
        (b"\n#9\n123456789\n#8\n", "message longer than 16 bytes"),
    ],
)
def test_chunk_errors(data: bytes, text: str) -> None:
    reader = FrameReader(max_message_bytes=16)
    reader.switch_to_chunked()
    reader.feed(data)
    with pytest.raises(FramingError) as failure:
        reader.next_message()
    assert str(failure.value) == text


def test_bound_of_a_delimited_message() -> None:
    reader = FrameReader(max_message_bytes=4)
    reader.feed(b"1234]]>]]>")
    assert reader.next_message() == b"1234"
    reader.feed(b"1234]]>]]")
    assert reader.next_message() is None
    reader.feed(b"5")
    with pytest.raises(FramingError, match=r"^message longer than 4 bytes$"):
        reader.next_message()


@pytest.mark.parametrize(
    ("message", "chunked", "text"),
    [
        (b"", True, "an empty message cannot be framed"),
        (b"", False, "an empty message cannot be framed"),
        (b"a]]>]]>b", False, "message holds the end-of-message delimiter"),
    ],
)
def test_what_cannot_be_encoded(message: bytes, chunked: bool, text: str) -> None:
    with pytest.raises(FramingError) as failure:
        encode(message, chunked=chunked)
    assert str(failure.value) == text
