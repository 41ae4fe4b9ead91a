"""Whether the first bytes of an image are those of the JPEG or PNG that was stored.

An image whose header cannot be read must not reach DALI's decoder in a large batch: version 2.4 reads
headers on several threads, and the first that fails ends the batch while the others still work on what
it then frees. The process dies.
"""

from numpy import uint8
from numpy.typing import NDArray

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive: the kinds that are stored
_EIGHT_BIT = {b"\x08\x00\x00\x00", b"\x08\x02\x00\x00"}  # grey and RGB, deflate, adaptive filters
_MOST_SEGMENTS = 200  # a colour profile may take dozens


def declares(image: NDArray[uint8], height: int, width: int) -> bool:
    """Return whether an encoded image [size] has a header that names these sides in pixels."""
    content = image.data
    sides = _jpeg_sides(content) if bytes(content[:3]) == _JPEG else _png_sides(content)
    return sides == (height, width)


def _jpeg_sides(content: memoryview) -> tuple[int, int] | None:
    """Return height and width as the frame header of a JPEG has them, or None where there is none."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        start = bytes(content[at : at + 9])
        if len(start) < 9 or start[0] != 0xFF:
            return None
        if start[1] in _FRAMES:
            return start[5] << 8 | start[6], start[7] << 8 | start[8]
        # Fill bytes may precede a marker.
        at += 1 if start[1] == 0xFF else 2 + (start[2] << 8 | start[3])
    return None


def _png_sides(content: memoryview) -> tuple[int, int] | None:
    """Return height and width of an 8-bit PNG whose chunks lead to its end, as DALI follows them, or None."""
    start = bytes(content[:28])
    if start[:16] != _PNG or start[24:28] not in _EIGHT_BIT:
        return None
    at, end = 33, len(content)
    while at + 12 <= end:
        if content[at + 4 : at + 8] == b"IEND":
            return int.from_bytes(start[20:24]), int.from_bytes(start[16:20])
        at += 12 + int.from_bytes(content[at : at + 4])
    return None
