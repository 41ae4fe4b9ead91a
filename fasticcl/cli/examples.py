"""Examples that end the help of a verb."""


def examples(*lines: str) -> str:
    """Return an epilog with one example a line, which help does not wrap."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
