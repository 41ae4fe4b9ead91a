"""Image sizes declared by the headers of stored, foreign and damaged images."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from fasticcl.shards.image_headers import declares_size
from tests.support.images import encode, noise, photographs

WIDE = noise(np.random.default_rng(0), 37, 53)


def encoded(image=WIDE, kind="JPEG", **options):
    return encode(image, kind, **options)


def text_chunk():
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", "x" * 500)
    return notes


INTACT = {
    "baseline": encoded(),
    "progressive": encoded(progressive=True),
    "grey": encoded(WIDE.convert("L")),
    "a large profile and a comment": encoded(icc_profile=bytes(200_000), comment=b"x" * 300),
    "EXIF": encoded(exif=b"Exif\0\0" + bytes(4000)),
    "restarts": encoded(restart_marker_rows=1),
    "PNG": encoded(kind="PNG"),
    "grey PNG": encoded(WIDE.convert("L"), "PNG"),
    "PNG with text": encoded(kind="PNG", pnginfo=text_chunk()),
}


def view(content):
    return np.frombuffer(content, np.uint8)


@pytest.mark.parametrize("content", INTACT.values(), ids=INTACT)
def test_intact_image_declares_only_its_own_size(content):
    assert declares_size(view(content), 37, 53)
    assert not declares_size(view(content), 53, 37)
    assert not declares_size(view(content), 37, 54)


def test_fill_bytes_before_a_marker_are_skipped():
    content = INTACT["baseline"]
    assert declares_size(view(content[:2] + b"\xff\xff" + content[2:]), 37, 53)


def test_photographs_are_accepted():
    for content in photographs(8, seed=3):
        with Image.open(io.BytesIO(content)) as image:
            assert declares_size(view(content), image.height, image.width)


@pytest.mark.parametrize("name", ["PNG", "PNG with text"])
def test_truncated_png_is_rejected(name):
    content = INTACT[name]
    assert not any(declares_size(view(content[:size]), 37, 53) for size in range(len(content) - 8))


def test_formats_that_are_never_stored_are_rejected():
    others = [
        encoded(kind="GIF"),
        encoded(kind="BMP"),
        encoded(WIDE.convert("P"), "PNG"),
        encoded(WIDE.convert("RGBA"), "PNG"),
        encoded(Image.new("I;16", WIDE.size), "PNG"),
        b"",
    ]
    assert not any(declares_size(view(content), 37, 53) for content in others)


@given(
    st.sampled_from([b"", b"\xff\xd8\xff", INTACT["PNG"][:28], INTACT["baseline"][:20]]),
    st.binary(max_size=80),
)
def test_arbitrary_bytes_are_rejected_without_an_exception(begin, rest):
    assert declares_size(view(begin + rest), 2**20, 2**20) is False
