"""Find out whether a video file was cut off, from what its container says about its own length.

FFmpeg ends such files as if they were whole, because a player wants that; results of a cut-off upload should not
pass for those of the video.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import av.error

EBML_SEGMENT = 0x18538067
EBML_HEADER = 0x1A45DFA3


def missing_bytes(path: Path, container: Any, stream: Any) -> int:
    """Return how many bytes of a file are missing at its end, 0 when none are or its format does not say."""
    try:
        length = path.stat().st_size
    except OSError:
        return 0
    formats = set(container.format.name.split(","))
    if "mp4" in formats:
        # The sample table: where each compressed image lies in the file.
        stated = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    elif "matroska" in formats:
        stated = _matroska_end(path)
    elif "avi" in formats:
        stated = _riff_end(path)
    else:
        return 0
    return max(0, stated - length)


def second_video(path: Path, container: Any, end: int) -> bool:
    """True if another file was appended, which FFmpeg does not read: a second film box, or a second Flash header.

    end: where the last packet that was read ends.
    """
    formats = set(container.format.name.split(","))
    try:
        with path.open("rb") as file:
            if "flv" in formats:
                file.seek(end)
                return b"FLV\x01" in file.read(1 << 16)
            return "mp4" in formats and _film_boxes(file) > 1
    except OSError:
        return False


def _film_boxes(file: BinaryIO) -> int:
    """Count the boxes "moov" on the top level (ISO 14496-12, 4.2: size, type, then a long size where size is 1)."""
    found = 0
    while len(head := file.read(16)) >= 8:
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        found += kind == b"moov"
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:], "big")
        if size < 8:
            break  # 0: to the end of the file
        file.seek(size - len(head), 1)
    return found


def ends_early(path: Path | None, container: Any, stream: Any, newest_pts: int | None, newest_dts: int | None) -> bool:
    """True if the container's own index lists a keyframe behind the last one that was read (stamps of the stream)."""
    if not {"mp4", "matroska"} & set(container.format.name.split(",")):
        return False
    if path is not None and "matroska" in container.format.name:
        with suppress(av.error.FFmpegError, OSError):
            container.seek(0)  # its index is loaded only now
    listed = max((entry.timestamp for entry in stream.index_entries if entry.is_keyframe), default=None)
    read = [stamp for stamp in (newest_pts, newest_dts) if stamp is not None]
    return listed is not None and bool(read) and listed > max(read)


def lists_keyframe(container: Any, stream: Any, packet: Any) -> bool:
    """True if the container's own index says that this packet, which is none, is a keyframe."""
    if not {"mp4", "matroska"} & set(container.format.name.split(",")):
        return False
    return any(entry.is_keyframe and entry.pos == packet.pos for entry in islice(stream.index_entries, 1))


def _riff_end(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(8)
    return 8 + int.from_bytes(head[4:8], "little") if head[:4] == b"RIFF" else 0


def _matroska_end(path: Path) -> int:
    """End of the first segment (RFC 8794: element id, then size, both of variable length); 0 for live recordings."""
    with path.open("rb") as file:
        head = file.read(4096)
    at = 0
    while at + 12 <= len(head):
        id_length = _leading_zeros(head[at]) + 1
        identifier = int.from_bytes(head[at : at + id_length], "big")
        at += id_length
        size_length = _leading_zeros(head[at]) + 1
        size = int.from_bytes(head[at : at + size_length], "big") & ((1 << 7 * size_length) - 1)
        unknown = size == (1 << 7 * size_length) - 1
        at += size_length
        if identifier == EBML_SEGMENT:
            return 0 if unknown else at + size
        if identifier != EBML_HEADER or unknown:
            return 0
        at += size
    return 0


def _leading_zeros(byte: int) -> int:
    return 8 - byte.bit_length()
