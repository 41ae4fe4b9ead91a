"""Images that are kept, re-encoded, shrunk or rejected, and the pixels that training decodes from them."""

import base64
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import simplejpeg
from nvidia.dali import Pipeline, fn, types
from PIL import Image

from fasticcl.shards import images
from fasticcl.shards.images import UnreadableImage, decode, prepare, try_prepare
from fasticcl.shards.shrink import Shrink
from tests.support.images import encode, noise, photographs

NOISY = encode(noise(np.random.default_rng(0), 48, 64), quality=90)
IMAGE = noise(np.random.default_rng(0), 3, 4).resize((64, 48), Image.Resampling.BICUBIC)
GREY = IMAGE.convert("L")
TURNED = IMAGE.transpose(Image.Transpose.ROTATE_180)
PIXELS = np.asarray(IMAGE).astype(int)
GREY_PIXELS = np.repeat(np.asarray(GREY).astype(int)[:, :, None], 3, axis=2)
JPEG = encode(IMAGE, quality=90)
PNG = encode(IMAGE, "PNG")
SMALL_PNG = encode(noise(np.random.default_rng(1), 8, 8), "PNG")
LOSSY, LOSSLESS = 2.0, 0.01  # largest mean differences in levels for a JPEG and for a PNG

# Encoded with libjpeg-turbo 2.1.5, cjpeg -quality 80, from the image GRADIENT.
GRADIENT = np.stack(np.broadcast_arrays(np.arange(24) * 10, 100 + np.arange(16)[:, None] * 2), axis=2)
GRADIENT = np.concatenate([GRADIENT, 240 - GRADIENT[:, :, :1]], axis=2)
_TABLES = (
    "/9j/4AAQSkZJRgABAQIAJQAlAAD/2wBDAAYEBQYFBAYGBQYHBwYIChAKCgkJChQODwwQFxQYGBcUFhYaHSUfGhsjHBYWICwgIyYn"
    "KSopGR8tMC0oMCUoKSj/2wBDAQcHBwoIChMKChMoGhYaKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgo"
    "KCgoKCgoKCj/"
)
ARITHMETIC = base64.b64decode(
    _TABLES + "yQARCAAQABgDASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AHbRy3Qw6ptqrZ2c3MCym5WGVCO0l+Qn"
    "96mtBG+ZpAkhPWiXIsg6oP/Z"
)
PROGRESSIVE_ARITHMETIC = base64.b64decode(
    _TABLES + "ygARCAAQABgDASIAAhEBAxEB/8wABgAQARD/2gAMAwEAAhADEAAAAf7r7J6iLZX2t0qFg0Zm/8wABBAF/9oACAEBAAEF"
    "Ah51WgSP4P/MAAQRBf/aAAgBAwEBPwEV80HExdD/zAAEEQX/2gAIAQIBAT8BOnly7sD/zAAEEAX/2gAIAQEABj8CwP/MAAQQBf/a"
    "AAgBAQABPyF6/9oADAMBAAIAAwAAABB+sP/MAAQRBf/aAAgBAwEBPxBQvv/MAAQRBf/aAAgBAgEBPxDV/8wABBAF/9oACAEBAAE/"
    "EFC069D/2Q=="
)
SAMPLED_1X4 = base64.b64decode(
    _TABLES + "wAARCAAQABgDARQAAhEBAxEB/8QAFwABAQEBAAAAAAAAAAAAAAAAAAQDBv/EABcQAQADAAAAAAAAAAAAAAAAAAADBDH/"
    "xAAVAQEBAAAAAAAAAAAAAAAAAAAGB//EABoRAAIDAQEAAAAAAAAAAAAAAAACAQQhBQP/2gAMAwEAAhEDEQA/AOVrx4trR4Cg9J50"
    "DUPScN68eLK0eAA9F50bUHbCivHiyvHgAXRedGtD0bD/2Q=="
)
SAMPLED_3X1 = base64.b64decode(
    _TABLES
    + "wAARCAAQABgDATEAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAABQb/xAAXEAADAQAAAAAAAAAAAAAAAAAAAwQx/8QAFgEB"
    "AQEAAAAAAAAAAAAAAAAABAID/8QAFxEAAwEAAAAAAAAAAAAAAAAAAAIGMv/aAAwDAQACEQMRAD8AlZ14KTrwUnXgm0bRck2QSZeC"
    "cy8FJ14Y2jaDyTZP/9k="
)


def png(lines, bits, color, extra=()):
    """Return a PNG of 64×48 pixels with these packed lines."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 64, 48, bits, color, 0, 0, 0)),
        *extra,
        (b"IDAT", zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def lines_of_16_bits(image):
    """Return the lines of a 16-bit PNG whose upper bytes are the image. Its lower bytes would round up."""
    return (np.asarray(image).astype(int) * 256 + 255).astype(">u2")


def nibbles():
    """Return the lines of a grey 4-bit PNG and its pixels."""
    values = np.asarray(GREY) >> 4
    return values[:, ::2] << 4 | values[:, 1::2], np.repeat(values[:, :, None].astype(int) * 17, 3, axis=2)


def with_exif(jpeg, body):
    """Return a JPEG with an EXIF segment."""
    segment = b"Exif\0\0" + body
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def ifd(*entries):
    """Return an EXIF body with entries (tag, type, count, four bytes of the value)."""
    packed = b"".join(struct.pack(">HHI4s", *entry) for entry in entries)
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + packed + bytes(4)


def orientation(value):
    return 0x0112, 3, 1, struct.pack(">HH", value, 0)


def with_frame(jpeg, marker):
    """Return a baseline JPEG whose marker declares another coding."""
    offset = jpeg.index(b"\xff\xc0")
    return jpeg[: offset + 1] + bytes([marker]) + jpeg[offset + 2 :]


def changed(content, offset, mask):
    damaged = bytearray(content)
    damaged[offset] ^= mask
    return bytes(damaged)


def mean_difference(one, other):
    """Return the mean absolute difference of two images."""
    return float(np.abs(one - other).mean())


def decoded(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def upright(turn):
    """Return the image as a viewer shows it with an EXIF orientation."""
    across = PIXELS.transpose(1, 0, 2)
    return {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: across,
        6: across[:, ::-1],
        7: across[::-1, ::-1],
        8: across[::-1],
    }[turn]


@pytest.fixture(scope="module")
def decode_with_dali():
    """A function that decodes with DALI as in training."""
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        content = fn.external_source(name="content")
        pipeline.set_outputs(
            fn.decoders.image(content, device="cpu", output_type=types.RGB, adjust_orientation=False)
        )
    pipeline.build()

    def decode(content):
        pipeline.feed_input("content", [np.frombuffer(content, np.uint8)])
        return pipeline.run()[0].at(0).astype(int)

    return decode


KEPT = {
    "jpeg": (JPEG, decoded(JPEG)),
    "progressive": (encode(IMAGE, progressive=True), PIXELS),
    "grey jpeg": (encode(GREY, quality=95), GREY_PIXELS),
    "rgb jpeg": (encode(IMAGE, quality=95, keep_rgb=True), PIXELS),
    **{
        f"jpeg {kind}": (simplejpeg.encode_jpeg(np.array(IMAGE), 95, colorsubsampling=kind), PIXELS)
        for kind in ("444", "422", "420", "440", "411")
    },
    "trailing bytes": (JPEG + b"trailing bytes", decoded(JPEG)),
    "several images": (encode(IMAGE, "MPO", save_all=True, append_images=[TURNED]), PIXELS),
    "upright exif": (with_exif(JPEG, ifd(orientation(1))), decoded(JPEG)),
    "png": (PNG, PIXELS),
    "grey png": (encode(GREY, "PNG"), GREY_PIXELS),
    "grey png of 4 bits": (png(nibbles()[0], 4, 0), nibbles()[1]),
    "png with gamma": (png(PIXELS.astype(np.uint8), 8, 2, [(b"gAMA", struct.pack(">I", 100_000))]), PIXELS),
    "animated png": (encode(IMAGE, "PNG", save_all=True, append_images=[TURNED]), PIXELS),
    "png with trailing bytes": (PNG + b"trailing bytes", PIXELS),
}
CMYK = encode(IMAGE.convert("CMYK"), quality=95)
PALETTE = IMAGE.quantize(16)
REENCODED = {
    "cmyk jpeg": (CMYK, "JPEG of mode CMYK", PIXELS),
    "cmyk jpeg with exif": (
        encode(IMAGE.convert("CMYK"), quality=95, exif=b"Exif\0\0" + ifd(orientation(6))),
        "JPEG of mode CMYK",
        upright(6),
    ),
    "cmyk jpeg, subsampled": (
        encode(IMAGE.convert("CMYK"), quality=95, subsampling=2),
        "JPEG of mode CMYK",
        PIXELS,
    ),
    "ycck jpeg": (
        simplejpeg.encode_jpeg(255 - np.array(IMAGE.convert("CMYK")), 95, "CMYK"),
        "JPEG of mode CMYK",
        PIXELS,
    ),
    "arithmetic jpeg": (ARITHMETIC, "JPEG of a rare kind", GRADIENT),
    "progressive arithmetic jpeg": (PROGRESSIVE_ARITHMETIC, "JPEG of a rare kind", GRADIENT),
    "jpeg 1x4": (SAMPLED_1X4, "JPEG of a rare kind", GRADIENT),
    "jpeg 3x1": (SAMPLED_3X1, "JPEG of a rare kind", GRADIENT),
    "webp": (encode(IMAGE, "WEBP", lossless=True), "WEBP format", PIXELS),
    "bmp": (encode(IMAGE, "BMP"), "BMP format", PIXELS),
    "tiff": (encode(IMAGE, "TIFF", compression="tiff_lzw"), "TIFF format", PIXELS),
    "ppm": (encode(IMAGE, "PPM"), "PPM format", PIXELS),
    "gif": (encode(PALETTE, "GIF"), "GIF format", np.asarray(PALETTE.convert("RGB"))),
    "animated gif": (
        encode(PALETTE, "GIF", save_all=True, append_images=[TURNED]),
        "GIF format",
        np.asarray(PALETTE.convert("RGB")),
    ),
    "animated webp": (
        encode(IMAGE, "WEBP", lossless=True, save_all=True, append_images=[TURNED]),
        "WEBP format",
        PIXELS,
    ),
    "png with a palette": (encode(PALETTE, "PNG"), "PNG of mode P", np.asarray(PALETTE.convert("RGB"))),
    "png with alpha": (encode(IMAGE.convert("RGBA"), "PNG"), "PNG of mode RGBA", PIXELS),
    "grey png with alpha": (encode(GREY.convert("LA"), "PNG"), "PNG of mode LA", GREY_PIXELS),
    "black and white png": (
        encode(IMAGE.convert("1"), "PNG"),
        "PNG of mode 1",
        np.asarray(IMAGE.convert("1").convert("RGB")),
    ),
    "png with a transparent colour": (
        encode(IMAGE, "PNG", transparency=(1, 2, 3)),
        "PNG of mode RGB",
        PIXELS,
    ),
    "grey png of 16 bits": (png(lines_of_16_bits(GREY), 16, 0), "PNG of mode I;16", GREY_PIXELS),
    "png of 16 bits": (png(lines_of_16_bits(IMAGE), 16, 2), "PNG of 16 bits", PIXELS),
    "grey png of 16 bits with alpha": (
        png(lines_of_16_bits(GREY.convert("LA")), 16, 4),
        "PNG of mode RGBA",
        GREY_PIXELS,
    ),
    "png of 16 bits with alpha": (
        png(lines_of_16_bits(IMAGE.convert("RGBA")), 16, 6),
        "PNG of mode RGBA",
        PIXELS,
    ),
    "tiff of 16 bits": (
        encode(Image.fromarray(lines_of_16_bits(GREY).astype(np.uint16)), "TIFF"),
        "TIFF format",
        GREY_PIXELS,
    ),
}


def params(cases):
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())


@params(KEPT)
def test_intact_rgb_and_grey_images_keep_their_bytes(case, decode_with_dali):
    content, shown = case
    image = prepare(content)
    assert image.content == content
    assert (image.suffix, image.reencoding_reason) == (
        "png" if content.startswith(b"\x89PNG") else "jpg",
        None,
    )
    assert (image.height, image.width) == shown.shape[:2]
    assert mean_difference(decode_with_dali(image.content), shown) < (
        LOSSLESS if image.suffix == "png" else 2 * LOSSY
    )


@params(REENCODED)
def test_images_that_decoders_read_differently_are_reencoded_upright(case, decode_with_dali):
    content, reason, shown = case
    image = prepare(content)
    jpeg = content.startswith(b"\xff\xd8")
    assert image.reencoding_reason == reason
    assert image.suffix == ("jpg" if jpeg else "png")
    assert (image.height, image.width) == shown.shape[:2]
    assert mean_difference(decode_with_dali(image.content), shown) < (7 if jpeg else LOSSLESS)
    if jpeg:
        assert mean_difference(decode_with_dali(image.content), decoded_upright(content)) < LOSSY


@params({name: case[0] for name, case in (KEPT | REENCODED).items()})
def test_decode_gives_the_same_pixels_as_training(case, decode_with_dali):
    pixels = decode(case)
    assert pixels.dtype == np.uint8
    assert (pixels == decode_with_dali(prepare(case).content)).all()


def decoded_upright(content):
    """Return the pixels that Pillow decodes, upright. Only orientation 6 occurs."""
    image = Image.open(io.BytesIO(content))
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return pixels.transpose(1, 0, 2)[:, ::-1] if image.getexif().get(0x0112) == 6 else pixels


@params(REENCODED)
def test_reencoded_images_are_plain_rgb_and_are_not_reencoded_again(case):
    image = prepare(case[0])
    stored = Image.open(io.BytesIO(image.content))
    assert stored.mode == "RGB"
    assert "transparency" not in stored.info
    assert not stored.getexif()
    second = prepare(image.content)
    assert (second.content, second.reencoding_reason) == (image.content, None)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(turn, kind, decode_with_dali):
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    image = prepare(encode(IMAGE, kind, exif=exif, **options))
    shown = upright(turn)
    assert (image.reencoding_reason is None) == (turn == 1 and kind in ("JPEG", "PNG"))
    assert (image.height, image.width) == shown.shape[:2]
    assert mean_difference(decode_with_dali(image.content), shown) < (LOSSY if kind == "JPEG" else LOSSLESS)
    assert Image.open(io.BytesIO(image.content)).getexif().get(0x0112, 1) == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning", "ignore:Truncated File:UserWarning")
@pytest.mark.parametrize(
    "body",
    [b"", b"rubbish, rubbish", b"MM\0+\0\0\0\x08", b"II*\0\xff\xff\xff\xff", ifd(orientation(6))[:14]],
    ids=["empty", "rubbish", "version", "far away", "cut"],
)
def test_exif_without_an_orientation_does_not_cause_reencoding(body):
    content = with_exif(JPEG, body)
    image = prepare(content)
    assert (image.content, image.reencoding_reason) == (content, None)


@pytest.mark.parametrize(
    "invalid_entry",
    [
        (0x011A, 2, 4, b"abc\0"),
        (0x010E, 5, 1, struct.pack(">I", 8)),
        (0x0100, 2, 4, b"abc\0"),
        (0x8769, 2, 4, b"abc\0"),
        (0x9286, 7, 4, b"\xff\xfe\0\1"),
    ],
    ids=["rational as text", "text as rational", "number as text", "pointer as text", "comment"],
)
def test_orientation_is_read_next_to_invalid_exif_entries(invalid_entry, decode_with_dali):
    entries = sorted([invalid_entry, orientation(6)])
    image = prepare(with_exif(JPEG, ifd(*entries)))
    assert image.reencoding_reason == "EXIF orientation"
    assert mean_difference(decode_with_dali(image.content), upright(6)) < LOSSY


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_invalid_orientation_is_ignored(value, decode_with_dali):
    image = prepare(with_exif(JPEG, ifd(orientation(value))))
    assert mean_difference(decode_with_dali(image.content), decoded(JPEG)) < LOSSY


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF])
@pytest.mark.parametrize("image", [IMAGE, GREY], ids=["rgb", "grey"])
def test_lossless_hierarchical_and_arithmetic_jpegs_never_keep_their_bytes(marker, image):
    content = with_frame(encode(image, quality=90), marker)
    image = try_prepare(content)
    assert isinstance(image, UnreadableImage) or (image.content != content and image.reencoding_reason)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\xff\xd8\xff", "."),
        (b"\x89PNG\r\n\x1a\n", "."),
        (JPEG[:20], "."),
        (JPEG[: JPEG.index(b"\xff\xda")], "."),
        (encode(IMAGE.convert("F"), "TIFF"), "mode F have no known range"),
        (encode(IMAGE.convert("I"), "TIFF"), "mode I have no known range"),
    ],
    ids=[
        "empty",
        "html",
        "postscript",
        "marker",
        "png header",
        "20 bytes",
        "header",
        "float",
        "int",
    ],
)
def test_files_that_are_not_images_are_rejected_with_a_reason(content, reason):
    with pytest.raises(UnreadableImage, match=reason):
        prepare(content)


TRUNCATED = {
    "jpeg": JPEG,
    "progressive": KEPT["progressive"][0],
    "grey": KEPT["grey jpeg"][0],
    "cmyk": CMYK,
    "ycck": REENCODED["ycck jpeg"][0],
    "arithmetic": ARITHMETIC,
    "sampled": SAMPLED_3X1,
    "png": PNG,
    "deep png": REENCODED["png of 16 bits"][0],
    "webp": REENCODED["webp"][0],
    "bmp": REENCODED["bmp"][0],
    "tiff": encode(IMAGE, "TIFF"),
    "ppm": REENCODED["ppm"][0],
}


@params(TRUNCATED)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning", "ignore:Truncated File:UserWarning")
def test_image_truncated_at_any_byte_is_rejected(case):
    cuts = {1, 2, 3, 12, 13, len(case) // 2, *range(20, len(case), max(1, len(case) // 40))}
    accepted = [cut for cut in sorted(cuts) if not isinstance(try_prepare(case[:-cut]), UnreadableImage)]
    assert not accepted
    for cut in cuts:
        with pytest.raises(UnreadableImage):
            decode(case[:-cut])


@pytest.mark.filterwarnings("ignore:Truncated File:UserWarning")
def test_a_gif_cut_short_is_rejected_unless_all_its_pixels_remain():
    content, _, shown = REENCODED["gif"]
    for length in range(0, len(content), 7):
        image = try_prepare(content[:length])
        assert isinstance(image, UnreadableImage) or (decoded(image.content) == shown).all()
    assert isinstance(try_prepare(content[: len(content) // 2]), UnreadableImage)


def scan(jpeg):
    """Return start and end of the entropy-coded data of a baseline JPEG."""
    offset = jpeg.index(b"\xff\xda")
    return offset + 2 + int.from_bytes(jpeg[offset + 2 : offset + 4], "big"), len(jpeg) - 2


@pytest.mark.parametrize("marker", [b"\xff\xd0", b"\xff\xd9", b"\xff\xc0", b"\xff\xda"])
def test_a_marker_inside_the_data_of_a_jpeg_is_rejected(marker):
    begin, end = scan(NOISY)
    for offset in range(begin, end - 2, 97):
        with pytest.raises(UnreadableImage, match=r"\w"):
            prepare(NOISY[:offset] + marker + NOISY[offset + 2 :])


def test_flipped_bits_in_a_jpeg_are_rejected_if_the_data_becomes_invalid(
    decode_with_dali,
):
    begin, end = scan(NOISY)
    rng = np.random.default_rng(2)
    flips = [changed(NOISY, offset, 1 << rng.integers(8)) for offset in rng.integers(begin, end, 300)]
    prepared = [try_prepare(flip) for flip in flips]
    refused = [image for image in prepared if isinstance(image, UnreadableImage)]
    assert all(str(image) for image in refused)
    assert 30 < len(refused) < 270
    for flip, image in zip(flips, prepared, strict=True):
        if isinstance(image, UnreadableImage):
            with pytest.raises(UnreadableImage):
                decode(flip)
        else:
            assert image.content == flip or image.reencoding_reason
            assert decode_with_dali(image.content).shape == (48, 64, 3)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_flipped_bit_anywhere_in_a_png_is_rejected_or_changes_nothing(decode_with_dali):
    whole = decode_with_dali(SMALL_PNG)
    rng = np.random.default_rng(3)
    for offset in range(len(SMALL_PNG)):
        image = try_prepare(changed(SMALL_PNG, offset, 1 << rng.integers(8)))
        if isinstance(image, UnreadableImage):
            assert str(image)
        else:
            assert (decode_with_dali(image.content) == whole).all()


def test_flips_in_a_png_are_rejected_in_the_data_and_in_every_checksum():
    data = SMALL_PNG.index(b"IDAT")
    checksum = data + 4 + int.from_bytes(SMALL_PNG[data - 4 : data], "big")
    for offset in (SMALL_PNG.index(b"IHDR") + 17, data + 10, checksum, checksum + 3):
        with pytest.raises(UnreadableImage, match=r"\w"):
            prepare(changed(SMALL_PNG, offset, 4))


def decompression_bomb(kind, side):
    """Return a few bytes that declare ``side`` × ``side`` pixels."""
    if kind == "JPEG":
        offset = JPEG.index(b"\xff\xc0") + 5
        return JPEG[:offset] + struct.pack(">HH", side, side) + JPEG[offset + 4 :]
    if kind == "PNG":
        header = b"IHDR" + struct.pack(">II", side, side) + SMALL_PNG[24:29]
        return SMALL_PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + SMALL_PNG[33:]
    if kind == "GIF":
        content = REENCODED["gif"][0]
        return content[:6] + struct.pack("<HH", side, side) + content[10:]
    if kind == "BMP":
        content = REENCODED["bmp"][0]
        return content[:18] + struct.pack("<ii", side, side) + content[26:]
    return b"P6 %d %d 255\n" % (side, side) + bytes(100)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_000, 13_000, 30_000])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "PPM"])
def test_a_decompression_bomb_is_rejected_with_its_reason(kind, side):
    with pytest.raises(UnreadableImage, match="size limit"):
        prepare(decompression_bomb(kind, side))


def test_decompression_bombs_are_rejected_without_decoding(tmp_path):
    script = """
import resource, sys, warnings
from pathlib import Path
from fasticcl.shards.images import prepare, try_prepare
warnings.simplefilter("ignore")
*bombs, sound = (Path(name).read_bytes() for name in sys.argv[1:])
prepare(sound)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs:
    print(try_prepare(bomb))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    paths = []
    for kind in ("JPEG", "PNG", "GIF", "BMP", "PPM"):
        for side in (9_000, 30_000):
            paths.append(tmp_path / f"{kind}{side}")
            paths[-1].write_bytes(decompression_bomb(kind, side))
    paths.append(tmp_path / "sound")
    paths[-1].write_bytes(JPEG)
    ran = subprocess.run(
        [sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert all("size limit" in line for line in ran[:-1])
    assert len(ran) == len(paths)
    assert int(ran[-1]) < 20  # MiB; the smallest image would need 232


def test_the_pixel_limit_itself_is_allowed(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 64)
    assert prepare(JPEG).content == JPEG
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(UnreadableImage, match="64×48 pixels exceed the size limit"):
        prepare(JPEG)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM"])
@pytest.mark.parametrize("size", [(1_000_000, 1), (1_000_001, 1), (1, 1_000_001)])
def test_a_side_that_no_decoder_accepts_is_rejected(kind, size, decode_with_dali):
    image = try_prepare(encode(Image.new("RGB", size), kind))
    if max(size) > 1_000_000:  # limit of libpng
        assert isinstance(image, UnreadableImage)
        assert "1000001" in str(image)
    else:
        assert decode_with_dali(image.content).shape == (1, 1_000_000, 3)


PHOTO = photographs(1)[0]  # larger than 300×300


def photo(mode="RGB"):
    return Image.open(io.BytesIO(PHOTO)).convert(mode)


LARGE = {
    "jpeg": (PHOTO, "RGB"),
    "grey jpeg": (encode(photo("L"), quality=95), "L"),
    "progressive": (encode(photo(), progressive=True, quality=95), "RGB"),
    "cmyk": (encode(photo("CMYK"), quality=95), "RGB"),
    "png": (encode(photo(), "PNG"), "RGB"),
    "grey png": (encode(photo("L"), "PNG"), "L"),
    "alpha": (encode(photo("RGBA"), "PNG"), "RGB"),
    "grey and alpha": (encode(photo("LA"), "PNG"), "RGB"),
    "webp": (encode(photo(), "WEBP", lossless=True), "RGB"),
    "gif": (encode(photo().quantize(64), "GIF"), "RGB"),
    "black and white": (encode(photo("1"), "PNG"), "RGB"),
}


@params(LARGE)
@pytest.mark.parametrize("side", ["short", "long"])
def test_shrunk_images_are_jpegs_of_the_images_resized_by_pillow(case, side, decode_with_dali):
    content, mode = case
    image = prepare(content, Shrink(side, 120, 100))
    original = Image.open(io.BytesIO(content)).convert(mode)
    measured = min(original.size) if side == "short" else max(original.size)
    width, height = (round(length * 120 / measured) for length in original.size)
    assert (image.height, image.width, image.suffix) == (height, width, "jpg")
    stored = Image.open(io.BytesIO(image.content))
    assert (stored.format, stored.mode, stored.size) == ("JPEG", mode, (width, height))
    small = original.resize((width, height), Image.Resampling.BICUBIC)
    assert (
        mean_difference(decode_with_dali(image.content), decoded(encode(small, quality=100, subsampling=2)))
        < 1
    )
    assert image.reencoding_reason


def test_a_rotated_cmyk_image_is_shrunk_upright(decode_with_dali):
    exif = b"Exif\0\0" + ifd(orientation(6))
    image = prepare(encode(photo("CMYK"), quality=95, exif=exif), Shrink("short", 100, 100))
    turned = photo().transpose(Image.Transpose.ROTATE_270)
    small = turned.resize((image.width, image.height), Image.Resampling.BICUBIC)
    assert min(image.height, image.width) == 100
    assert (image.height > image.width) == (turned.height > turned.width)
    assert mean_difference(decode_with_dali(image.content), np.asarray(small)) < 4


def test_a_16_bit_image_is_shrunk(decode_with_dali):
    image = prepare(REENCODED["grey png of 16 bits"][0], Shrink("short", 24, 100))
    expected = np.asarray(GREY.resize((32, 24), Image.Resampling.BICUBIC)).astype(int)
    assert mean_difference(decode_with_dali(image.content), expected[:, :, None]) < 2


@params(KEPT)
def test_images_that_are_small_enough_keep_their_bytes(case):
    for shrink in (Shrink("short", 48, 50), Shrink("long", 64, 50)):
        assert prepare(case[0], shrink) == prepare(case[0])


@params(REENCODED)
def test_small_images_are_reencoded_as_without_shrinking(case):
    assert prepare(case[0], Shrink("long", 64, 50)) == prepare(case[0])


def test_quality_is_the_jpeg_quality():
    rough, fine = (prepare(PHOTO, Shrink("short", 200, quality)).content for quality in (50, 95))
    pillow = Image.open(io.BytesIO(encode(photo(), quality=50)))
    assert Image.open(io.BytesIO(rough)).quantization == pillow.quantization
    assert len(fine) > 2 * len(rough)


@pytest.mark.parametrize("content", [JPEG[:-2], JPEG[:300], CMYK[:-2], PNG[:-20], b"<html>", b""])
def test_damaged_images_are_rejected_when_shrinking_too(content):
    with pytest.raises(UnreadableImage, match=r"\w"):
        prepare(content, Shrink("short", 20, 90))
