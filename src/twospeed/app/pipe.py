"""Messages between server and worker: `u32 length, u8 kind, payload`; kind 0 is JSON, kind 1 a wire mask."""

from __future__ import annotations

import json
import struct
from typing import IO, Any

JSON, MASK, BYTES = 0, 1, 2
HEAD = struct.Struct("<IB")
MOST = 1 << 30


def message(kind: int, payload: bytes) -> bytes:
    """Return a message as it travels."""
    return HEAD.pack(len(payload), kind) + payload


def json_message(**content: Any) -> bytes:
    """Return a JSON message."""
    return message(JSON, json.dumps(content).encode())


def read(stream: IO[bytes]) -> tuple[int, bytes] | None:
    """Read one message from a blocking stream, None at its end."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    length, kind = HEAD.unpack(head)
    payload = stream.read(length)
    return None if len(payload) < length else (kind, payload)
