"""The capture's file: whole up to where it was cut, refused where it is damaged, and bare of strangers."""

import io
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.allow import AllowList
from gateway.capture import (
    BLOCK_MS,
    MAGIC,
    MAX_BLOCK_BYTES,
    MAX_FRAMES,
    MAX_ROWS,
    Block,
    CaptureError,
    CaptureHeader,
    CaptureReader,
    CaptureWriter,
    Heard,
)
from gateway.presence import PresenceSettings
from gateway.record import CaptureNotWritten, HeldClock, Recorder, create

UUID = "11111111-2222-3333-4444-555555555555"
STRANGER = "99999999-9999-9999-9999-999999999999"
HEADER = CaptureHeader("0f0e0d0c-0000-4000-8000-000000000001", 1000, 0, "shop", "door", "0.1.0", "ab" * 8)
APPLE = {0x004C: b"\x02\x15" + bytes.fromhex(UUID.replace("-", "")) + bytes([0, 1, 0, 2, 197])}


def written(seconds=30, per_second=4):
    """A capture, and where each of its frames begins."""
    writer, parts = CaptureWriter(HEADER), []
    parts.append(writer.take())
    for tick in range(1, seconds * 2 + 1):
        at = HEADER.started_ms + tick * 500
        for _ in range(per_second // 2):
            writer.advert(at - 250, 1, APPLE, {}, -60)
        writer.close(at)
        parts.append(writer.take())
    writer.close(at, flush=True)
    parts.append(writer.take())
    return b"".join(parts)


def read(data):
    reader = CaptureReader(io.BytesIO(data))
    return reader, list(reader.blocks())


def frame(payload):
    return len(payload).to_bytes(4, "big") + zlib.crc32(payload).to_bytes(4, "big") + payload


def starts(data):
    """Where each frame begins, the header's first."""
    at = len(MAGIC)
    while at < len(data):
        yield at
        at += 8 + int.from_bytes(data[at : at + 4], "big")


def rows(blocks):
    told = []
    for block in blocks:
        now = block.base_ms
        for after, what, value in zip(block.after, block.what, block.value, strict=True):
            now += after
            told.append((now, block.heard[what - 1] if what else None, value))
    return told


def test_what_was_written_is_read():
    reader, blocks = read(written(seconds=30))
    assert reader.header == HEADER and not reader.torn and reader.position == len(written(seconds=30))
    told = rows(blocks)
    assert len([row for row in told if row[1]]) == 120 and len([row for row in told if not row[1]]) == 61
    assert told[0] == (1250, Heard(1, APPLE, {}), -60) and told[-1] == (31000, None, 1)
    assert all(block.base_ms + sum(block.after) - block.base_ms <= BLOCK_MS for block in blocks)


@given(cut=st.integers(0, 10_000))
def test_a_file_cut_anywhere_is_whole_up_to_its_last_frame(cut):
    data = written(seconds=20)
    cut = min(cut, len(data))
    borders = [*starts(data), len(data)]
    header_end = borders[1]
    if cut < header_end:
        with pytest.raises(CaptureError):
            read(data[:cut])
        return
    reader, blocks = read(data[:cut])
    assert len(blocks) == len([border for border in borders[2:] if border <= cut])
    assert reader.torn == (cut not in borders)


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"\0\0\0\7", b"\0\0\0\x10\1\2\3\4half"])
def test_what_a_pulled_plug_leaves_behind_is_a_torn_tail(tail):
    reader, blocks = read(written() + tail)
    assert reader.torn and len(blocks) == len(read(written())[1])


def test_a_flipped_bit_in_the_middle_is_damage_and_in_the_last_frame_a_torn_tail():
    data = bytearray(written())
    *_, before_last, last = starts(data)
    data[before_last + 20] ^= 1
    with pytest.raises(CaptureError, match=f"damaged at byte {before_last}: the checksum"):
        read(data)
    data[before_last + 20] ^= 1
    data[last + 20] ^= 1
    assert read(data)[0].torn


def hostile(**changes):
    good = {"base_ms": 1000, "heard": [], "after": [1], "what": [0], "value": [0]}
    return msgspec.msgpack.encode(["block", *(good | changes).values()])


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(hostile(what=[1]), id="content that is not there"),
        pytest.param(hostile(after=[1, 2]), id="columns of different length"),
        pytest.param(hostile(after=[-1]), id="time backwards within a block"),
        pytest.param(hostile(base_ms=2**60), id="time beyond its end"),
        pytest.param(hostile(value=[300]), id="no strength of a radio"),
        pytest.param(hostile(heard=[[1, {70000: b""}, {}]]), id="no company"),
        pytest.param(hostile(heard=[[1, {1: b"x" * 256}, {}]]), id="more than an advert holds"),
        pytest.param(hostile(heard=[[1, {}, {"../etc": b""}]]), id="no service"),
        pytest.param(hostile(heard=[[0, {}, {}]] * (MAX_FRAMES + 1)), id="too many contents"),
        pytest.param(
            hostile(after=[0] * (MAX_ROWS + 1), what=[0] * (MAX_ROWS + 1), value=[0] * (MAX_ROWS + 1)),
            id="too many rows",
        ),
        pytest.param(b"\x91" * 4000, id="nested"),
        pytest.param(b"\xc1", id="no MessagePack"),
        pytest.param(msgspec.msgpack.encode(HEADER), id="a second header"),
    ],
)
def test_hostile_blocks_are_refused_with_their_place(payload):
    data = written(seconds=6)
    with pytest.raises(CaptureError, match=f"damaged at byte {len(data)}: "):
        read(data + frame(payload) + frame(hostile()))


def test_blocks_out_of_order_are_refused():
    data = written()
    first, second = list(starts(data))[1:3]
    with pytest.raises(CaptureError, match="time runs backwards"):
        read(data + data[first:second] + data[first:second])


def test_a_frame_that_claims_gigabytes_is_refused_unread():
    data = written(seconds=6) + (MAX_BLOCK_BYTES + 1).to_bytes(4, "big") + b"\1\2\3\4" + b"x" * 100
    with pytest.raises(CaptureError, match="a frame of"):
        read(data)


@given(st.binary(max_size=300))
def test_noise_is_refused_or_ends_in_order(noise):
    for data in (noise, MAGIC + noise, written(seconds=6) + noise, MAGIC + frame(noise)):
        try:
            read(data)
        except CaptureError as error:
            assert "\n" not in str(error)


@given(position=st.integers(0, 100_000), value=st.integers(0, 255))
def test_any_byte_may_be_changed_and_nothing_but_a_capture_error_comes_of_it(position, value):
    data = bytearray(written(seconds=12))
    data[position % len(data)] = value
    try:
        read(data)
    except CaptureError:
        return


def test_a_busy_second_is_cut_into_blocks_that_the_reader_takes():
    writer = CaptureWriter(HEADER)
    for number in range(MAX_ROWS + 10):
        writer.advert(1000, number, APPLE, {}, -60)
    writer.close(1500, flush=True)
    _, blocks = read(writer.take())
    assert sum(len(block.what) for block in blocks) == MAX_ROWS + 11
    assert max(len(block.heard) for block in blocks) <= MAX_FRAMES


def recorder(allow=None):
    clock = HeldClock("0f0e0d0c-0000-4000-8000-000000000001", 1000)
    writer = CaptureWriter(HEADER)
    allow = allow or AllowList.of(ibeacons=[UUID], eddystone_namespaces=["ab" * 10], eid=False)
    return Recorder(writer, allow, PresenceSettings(), clock), writer, clock


def test_strangers_and_radio_addresses_leave_no_trace():
    record, writer, clock = recorder()
    stranger = {0x004C: b"\x02\x15" + bytes.fromhex(STRANGER.replace("-", "")) + bytes(4) + b"\xc5"}
    for _ in range(20):
        clock.now += 100
        record.heard("C0:00:00:00:00:01", APPLE | {0x0006: b"a laptop's secret"}, {"180f": b"battery"}, -60)
        record.heard("C0:00:00:00:00:02", stranger, {}, -60)
    record.close(flush=True)
    data = writer.take()
    _, blocks = read(data)
    assert [entry.manufacturer for block in blocks for entry in block.heard] == [APPLE]
    assert (record.recorded, record.forgotten) == (20, 20) == (20, sum(block.forgotten for block in blocks))
    for secret in (b"C0:00", bytes.fromhex(STRANGER.replace("-", "")), b"laptop", b"battery", b"180f"):
        assert secret not in data


def test_telemetry_is_kept_where_it_is_known_whose_it_is_and_only_there():
    record, writer, clock = recorder()
    uuid = "0000feaa-0000-1000-8000-00805f9b34fb"
    telemetry = b"\x20\x00" + (3000).to_bytes(2, "big") + bytes(10)
    name = b"\x00\xee" + b"\xab" * 10 + b"\x01" * 6
    for address in ("C0:00:00:00:00:01", "C0:00:00:00:00:02"):
        record.heard(address, {}, {uuid: telemetry}, -60)
    record.heard("C0:00:00:00:00:01", {}, {uuid: name}, -60)
    record.heard("C0:00:00:00:00:01", {}, {uuid: telemetry}, -60)
    record.heard("C0:00:00:00:00:02", {}, {uuid: telemetry}, -60)
    clock.now += 1000
    record.close(flush=True)
    told = [entry.service[uuid] for _, entry, _ in rows(read(writer.take())[1]) if entry]
    assert told == [name, telemetry] and record.forgotten == 3


def test_a_capture_is_private_and_never_written_over(tmp_path):
    with create(tmp_path / "capture") as file:
        file.write(b"x")
    assert (tmp_path / "capture").stat().st_mode & 0o777 == 0o600
    with pytest.raises(CaptureNotWritten, match="is there already"):
        create(tmp_path / "capture")
    with pytest.raises(CaptureNotWritten, match="No such file"):
        create(tmp_path / "nowhere" / "capture")


def test_the_format_is_what_the_documentation_says():
    """Bytes of format 1, for readers in other languages; a change of the format needs another number."""
    writer = CaptureWriter(CaptureHeader("b", 1000, 0, "s", "g", "0", "f"))
    writer.advert(1005, 1, {76: b"\x02\x15"}, {}, -60)
    writer.close(1500, flush=True)
    assert writer.take() == MAGIC + frame(
        msgspec.msgpack.encode(["capture", "b", 1000, 0, "s", "g", "0", "f"])
    ) + frame(
        msgspec.msgpack.encode(
            ["block", 1000, [[1, {76: b"\x02\x15"}, {}]], [5, 495], [1, 0], [-60, 1], 0, 0]
        )
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(Block(1, [], [], [], [])))[0] == "block"
