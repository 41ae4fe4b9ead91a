"""Checks of the shards given as ``--data`` and of the disk that contains them."""

from fasticcl.doctor.facts import Facts, Finding

_SLOW_BYTES = 100e6  # per second. Two cores decode 71 kB JPEGs at about this rate.
_SLOW_IMAGES = 2000  # per second, the equivalent for small images
_TOO_FEW_BYTES = 4e6  # read too quickly to be measured


def shards(facts: Facts) -> Finding | None:
    """Check that the shards match their manifest, and that a sample of images matches its checksums."""
    stored = facts.stored
    if stored is None:
        return None
    if stored.problem:
        advice = "Run fasticcl verify to list all damage, and fasticcl datasets to see how to convert again."
        return Finding("shards", "error", stored.problem, advice)
    text = (
        f"{stored.dataset}: {stored.images:,} images in {stored.shards:,} shards. Manifest, indexes and "
        f"sizes match, and so do the checksums of {stored.sampled:,} randomly drawn images"
    )
    return Finding("shards", "ok", text)


def disk(facts: Facts) -> Finding | None:
    """Check that the disk reads images faster than they are decoded."""
    speed = facts.stored.read_speed if facts.stored else None
    if speed is None:
        return None
    if speed.bytes < _TOO_FEW_BYTES and speed.seconds < 0.5:
        text = f"the dataset is too small to measure the read speed ({speed.bytes / 1e6:.1f} MB were read)"
        return Finding("disk", "ok", text)
    bytes_per_second, images_per_second = speed.bytes / speed.seconds, speed.images / speed.seconds
    text = f"{bytes_per_second / 1e6:,.0f} MB/s, {images_per_second:,.0f} images/s in random order"
    if not speed.cold:
        text += " (some images may have come from the page cache)"
    if bytes_per_second < _SLOW_BYTES and images_per_second < _SLOW_IMAGES:
        advice = "Copy the shards to a local SSD, or use --cache host if the decoded images fit into memory."
        return Finding("disk", "warning", text, advice)
    return Finding("disk", "ok", text)
