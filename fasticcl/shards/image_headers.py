"""Headers of encoded images: a JPEG segment walker, and the size that a JPEG or PNG header declares.

DALI's decoder must not receive an image whose header cannot be parsed as part of a large batch. DALI 2.4
parses headers on several threads, and the first failure ends the batch while the other threads still use
memory that it then frees, which crashes the process.
"""

from collections.abc import Iterator
from itertools import islice

from numpy import uint8
from numpy.typing import NDArray

JPEG_START = b"\xff\xd8\xff"
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Start-of-frame markers, each of which identifies a coding process of JPEG."""
COMMON_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive Huffman JPEG, which every decoder reads. Only these are stored."""
_SCAN = 0xDA
_MAX_JPEG_SEGMENTS = 200  # a colour profile may use dozens
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_EIGHT_BIT_PNG = {b"\x08\x00\x00\x00", b"\x08\x02\x00\x00"}  # grey and RGB, deflate, adaptive filters


def jpeg_segments(content: bytes | memoryview, *, strict: bool = False) -> Iterator[tuple[int, int]]:
    """Yield the marker (its second byte) and the offset of each JPEG segment before the first scan.

    Fill bytes (0xFF) before a marker are skipped. Any other byte between two segments is skipped too, as
    libjpeg does, or ends the iteration if ``strict``.
    """
    offset = 2
    while offset + 4 <= len(content):
        marker = content[offset + 1]
        if content[offset] != 0xFF and strict:
            return
        if content[offset] != 0xFF or marker == 0xFF:
            offset += 1
        elif marker == _SCAN:
            return
        else:
            yield marker, offset
            offset += 2 + int.from_bytes(content[offset + 2 : offset + 4], "big")


def declares_size(image: NDArray[uint8], height: int, width: int) -> bool:
    """Return True if the header of an encoded image [size] is valid and declares this size in pixels."""
    content = image.data
    size = _jpeg_size(content) if bytes(content[:3]) == JPEG_START else _png_size(content)
    return size == (height, width)


def _jpeg_size(content: memoryview) -> tuple[int, int] | None:
    """Return height and width from the frame header of a JPEG, or None if there is no such header."""
    for marker, offset in islice(jpeg_segments(content, strict=True), _MAX_JPEG_SEGMENTS):
        if marker in COMMON_JPEG_FRAMES:
            frame = bytes(content[offset : offset + 9])
            return (frame[5] << 8 | frame[6], frame[7] << 8 | frame[8]) if len(frame) == 9 else None
    return None


def _png_size(content: memoryview) -> tuple[int, int] | None:
    """Return height and width of an 8-bit PNG, or None if its chunks do not end with IEND."""
    start = bytes(content[:28])
    if start[:16] != _PNG_START or start[24:28] not in _EIGHT_BIT_PNG:
        return None
    offset, end = 33, len(content)
    while offset + 12 <= end:
        if content[offset + 4 : offset + 8] == b"IEND":
            return int.from_bytes(start[20:24]), int.from_bytes(start[16:20])
        offset += 12 + int.from_bytes(content[offset : offset + 4])
    return None
