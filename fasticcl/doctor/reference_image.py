"""Reference image for decoders: a JPEG of 64×64 pixels with four squares of uniform colour."""

import base64
from collections.abc import Sequence

COLORS = ((220, 40, 30), (40, 170, 60), (40, 60, 200), (230, 220, 210))
"""RGB of the squares: upper left, upper right, lower left, lower right."""

# Baseline, 4:2:0, written by Pillow with quality=90, optimize=True.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMU"
    "FRUVDA8XGBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU"
    "FBQUFBQUFBT/wAARCABAAEADASIAAhEBAxEB/8QAFwABAQEBAAAAAAAAAAAAAAAAAAcJCP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/"
    "xAAYAQEAAwEAAAAAAAAAAAAAAAAABwgJA//EABQRAQAAAAAAAAAAAAAAAAAAAAD/2gAMAwEAAhEDEQA/AJEAiJfMABRQHVjuAAnQ"
    "Dk2IAAUUB1Y7gAOfAGjaXQAGywClKSAAGNIC6yNwAGywClKSAAH/2Q=="
)
SIDE = 64


def square_colors(pixels: Sequence[Sequence[Sequence[int]]]) -> list[list[int]]:
    """Return the RGB at the centre of every square of a decoded image, given as nested lists [64, 64, 3]."""
    centres = (SIDE // 4, 3 * SIDE // 4)
    return [list(pixels[row][column]) for row in centres for column in centres]


def color_error(decoded: Sequence[Sequence[int]]) -> int:
    """Return the largest absolute difference from `COLORS`, in grey levels of 256."""
    pairs = zip(decoded, COLORS, strict=True)
    return max(abs(a - b) for color, expected in pairs for a, b in zip(color, expected, strict=True))
