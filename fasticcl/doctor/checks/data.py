"""The shards of ``--data`` and the disk that they are on."""

from fasticcl.doctor.facts import Facts
from fasticcl.doctor.finding import Finding

_SLOW = 100e6  # bytes per second: two cores already decode about as much of 71 kB JPEGs
_FEW = 2000  # images per second, the same for small images
_TOO_SMALL = 4e6  # bytes; read in less time than can be measured


def shards(facts: Facts) -> Finding | None:
    """Whether the shards are as they were converted, as far as a sample shows."""
    found = facts.stored
    if found is None:
        return None
    if found.problem:
        advice = "fasticcl verify says all that is wrong; fasticcl datasets, how shards are made."
        return Finding("shards", "error", found.problem, advice)
    text = (
        f"{found.dataset}: {found.images:,} images in {found.shards:,} shards; manifest, indexes and sizes "
        f"fit, and {found.sampled:,} images drawn at random have their checksums"
    )
    return Finding("shards", "ok", text)


def disk(facts: Facts) -> Finding | None:
    """Whether the disk gives images faster than they are decoded."""
    reading = facts.stored.reading if facts.stored else None
    if reading is None:
        return None
    if reading.bytes < _TOO_SMALL and reading.seconds < 0.5:
        return Finding(
            "disk", "ok", f"the images read, {reading.bytes / 1e6:.1f} MB, are too few to tell its speed"
        )
    speed, rate = reading.bytes / reading.seconds, reading.images / reading.seconds
    source = "" if reading.cold else "; part of it may have come from memory, which could not be ruled out"
    text = f"{speed / 1e6:,.0f} MB/s, {rate:,.0f} images/s drawn at random{source}"
    if speed < _SLOW and rate < _FEW:
        advice = (
            "Copy the shards to a local SSD, or use --cache host where the decoded images fit into memory."
        )
        return Finding("disk", "warning", text, advice)
    return Finding("disk", "ok", text)
