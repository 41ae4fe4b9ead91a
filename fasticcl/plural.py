"""Numbers with a noun in the singular or the plural."""


def counted(number: float, noun: str) -> str:
    """Return a number and a noun with a regular plural, for example ``1 image`` or ``2,000 images``."""
    figure = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{figure} {noun}{'' if number == 1 else 's'}"
