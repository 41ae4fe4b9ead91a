"""The picture that every decoder is given: 64×64 pixels, four squares of one colour each."""

import base64
from collections.abc import Sequence

COLORS = ((220, 40, 30), (40, 170, 60), (40, 60, 200), (230, 220, 210))
"""RGB of the squares: upper left, upper right, lower left, lower right."""

# Baseline, 4:2:0, as Pillow writes it with quality=90, optimize=True.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMU"
    "FRUVDA8XGBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU"
    "FBQUFBQUFBT/wAARCABAAEADASIAAhEBAxEB/8QAFwABAQEBAAAAAAAAAAAAAAAAAAcJCP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/"
    "xAAYAQEAAwEAAAAAAAAAAAAAAAAABwgJA//EABQRAQAAAAAAAAAAAAAAAAAAAAD/2gAMAwEAAhEDEQA/AJEAiJfMABRQHVjuAAnQ"
    "Dk2IAAUUB1Y7gAOfAGjaXQAGywClKSAAGNIC6yNwAGywClKSAAH/2Q=="
)
_SIDE = 64


def colors(pixels: Sequence[Sequence[Sequence[int]]]) -> list[list[int]]:
    """Return the RGB in the middle of every square of a decoded picture, [64, 64, 3], as lists."""
    middles = (_SIDE // 4, 3 * _SIDE // 4)
    return [list(pixels[row][column]) for row in middles for column in middles]


def difference(found: Sequence[Sequence[int]]) -> int:
    """Return the largest difference from the squares' colours, in grey levels of 256."""
    pairs = zip(found, COLORS, strict=True)
    return max(abs(one - other) for seen, made in pairs for one, other in zip(seen, made, strict=True))
