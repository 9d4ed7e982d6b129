#!/usr/bin/env python3
"""TensorBoard's event files once more, from their definitions alone: what src/io/tfevents.ts is held to.

    python3 test/golden/golden_tfevents.py              # writes tfevents.bin beside this script
    python3 test/golden/golden_tfevents.py FILE         # prints the events of a file, a line of JSON each

A TFRecord is u64 length, u32 masked CRC-32C of those eight bytes, the data, u32 masked CRC-32C of the data. The data is a
protobuf Event: 1 wall_time (double), 2 step, 3 file_version, 5 summary, 7 session_log. No library is used.
"""
import json
import struct
import sys
from pathlib import Path


def crc32c(data):
    """Bit by bit, of the polynomial 0x1EDC6F41 reversed."""
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


def varint(n):
    out = b''
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack('<d', value)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def record(data):
    length = struct.pack('<Q', len(data))
    return length + struct.pack('<I', masked(length)) + data + struct.pack('<I', masked(data))


def golden():
    wall = 1234567890.125
    doubles = lambda values: struct.pack(f'<{len(values)}d', *values)
    scalar = field(1, 'lossD') + varint(2 << 3 | 5) + struct.pack('<f', 1.2345)
    norm = field(1, 'gradNorm/G') + varint(2 << 3 | 5) + struct.pack('<f', -1e-7)
    png = bytes(range(200))
    image = field(1, 'samples') + field(4, field(1, 2) + field(2, 300) + field(3, 3) + field(4, png))
    histogram = field(1, 'generator/main.0.weight') + field(5, b''.join([
        field(1, -1.0), field(2, 2.5), field(3, 4.0), field(4, 3.0), field(5, 9.25),
        field(6, doubles([-0.5, 0.0, 3.0])), field(7, doubles([1.0, 0.0, 3.0]))]))
    summary = lambda *values: field(5, b''.join(field(1, value) for value in values))
    return b''.join(record(event) for event in (
        field(1, wall) + field(3, 'brain.Event:2'),
        field(1, wall) + field(2, 301) + field(7, field(1, 1)),
        field(1, wall + 1) + field(2, 300) + summary(scalar, norm),
        field(1, wall + 2) + field(2, 70000) + summary(image, histogram),
    ))


def fields(data):
    """(number, wire type, value) of a message."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        head = number()
        kind = head & 7
        if kind == 0:
            yield head >> 3, kind, number()
            continue
        size = {1: 8, 5: 4}.get(kind) or number()
        yield head >> 3, kind, data[at:at + size]
        at += size


def unpacked(data):
    return struct.unpack(f'<{len(data) // 8}d', data)


def summary_value(data):
    out = {}
    for n, _, v in fields(data):
        if n == 1:
            out['tag'] = v.decode()
        elif n == 2:
            out['scalar'], = struct.unpack('<f', v)
        elif n == 4:
            image = {k: w for k, _, w in fields(v)}
            out['image'] = dict(height=image[1], width=image[2], bytes=len(image[4]), png=image[4][:4] == b'\x89PNG')
        elif n == 5:
            h = {k: w for k, _, w in fields(v)}
            limits, counts = unpacked(h[6]), unpacked(h[7])
            assert len(limits) == len(counts) and sum(counts) == unpacked(h[3])[0], 'buckets do not add up'
            out['histogram'] = dict(min=unpacked(h[1])[0], max=unpacked(h[2])[0], count=sum(counts), buckets=len(limits))
    return out


def events(data):
    at = 0
    while at < len(data):
        length, check = struct.unpack_from('<QI', data, at)
        body = data[at + 12:at + 12 + length]
        assert check == masked(data[at:at + 8]), f'length at {at} is damaged'
        assert struct.unpack_from('<I', data, at + 12 + length)[0] == masked(body), f'record at {at} is damaged'
        event = {}
        for n, _, v in fields(body):
            if n == 1:
                event['wall'], = unpacked(v)
            elif n == 2:
                event['step'] = v
            elif n == 3:
                event['version'] = v.decode()
            elif n == 5:
                event['values'] = [summary_value(w) for _, _, w in fields(v)]
            elif n == 7:
                event['session'] = dict((k, w) for k, _, w in fields(v))
        yield event
        at += 16 + length


if __name__ == '__main__':
    if len(sys.argv) > 1:
        for event in events(Path(sys.argv[1]).read_bytes()):
            print(json.dumps(event))
    else:
        (Path(__file__).resolve().parent / 'tfevents.bin').write_bytes(golden())
