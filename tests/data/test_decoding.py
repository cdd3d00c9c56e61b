"""Pixels are what a viewer shows, whatever the format; a file that does not decode is named, with the reason."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reference_pipelines.data import decoding, read
from reference_pipelines.data.decoding import find_corrupt, holds_image, load_image, without_corrupt
from reference_pipelines.data.formats import FORMATS, IMAGE_ENDINGS, UNSIGNED
from reference_pipelines.errors import UserError
from reference_pipelines.reporting.figures import open_image

RED, BLUE = (250, 10, 20), (10, 30, 240)


def two_colours(width=24, height=16):
    """Red left, blue right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def pixel(loaded, row, column):
    return tuple(loaded[:, row, column].tolist())


def near(found, expected, levels):
    return max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= levels


@pytest.fixture(params=["torchcodec", "Pillow"])
def decoder(request, monkeypatch):
    """Both ways to decode a JPEG file."""
    if request.param == "Pillow":
        monkeypatch.setattr(decoding, "decode_jpeg", None)
    elif decoding.decode_jpeg is None:
        pytest.skip("torchcodec is not installed")


JPEGS = [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"keep_rgb": True}, {"optimize": True}]


@pytest.mark.parametrize("quality", [30, 90])
@pytest.mark.parametrize("options", JPEGS)
@pytest.mark.parametrize("size", [(33, 17), (128, 64), (1, 1)])
def test_a_jpeg_is_pillows_pixels(tmp_path, quality, options, size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=quality, **options)
    loaded = load_image(tmp_path / "a.jpg")
    assert (loaded.dtype, loaded.shape) == (torch.uint8, (3, *size))
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.array_equal(loaded.permute(1, 2, 0).numpy(), np.asarray(image.convert("RGB")))


def writable(ending):
    """Return the format as which Pillow writes a file of this ending, None where it cannot."""
    Image.init()
    form = next(form for form, endings in FORMATS.items() if ending in endings)
    return form if form in Image.SAVE else None


@pytest.mark.parametrize("ending", IMAGE_ENDINGS)
def test_every_format_that_is_read_gives_rgb(tmp_path, ending):
    if (form := writable(ending)) is None:
        pytest.skip("this Pillow does not write it")
    path = tmp_path / f"a{ending}"
    two_colours().save(path, form)
    loaded = load_image(path)
    assert loaded.shape == (3, 16, 24)
    assert near(pixel(loaded, 3, 3), RED, 12)
    assert near(pixel(loaded, 3, 20), BLUE, 12)
    assert find_corrupt([path], workers=0) == []
    assert holds_image(path.rename(tmp_path / "b")) == (form not in UNSIGNED)


def test_the_documentation_names_every_ending():
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert all(f"`{ending}`" in page for ending in IMAGE_ENDINGS)


def test_all_the_usual_formats_are_tried_here():
    assert {writable(ending) for ending in (".jpg", ".png", ".bmp", ".webp", ".gif", ".tif", ".ppm", ".tga")} == {
        "JPEG",
        "PNG",
        "BMP",
        "WEBP",
        "GIF",
        "TIFF",
        "PPM",
        "TGA",
    }


def test_what_is_none_of_the_formats_is_not_decoded(tmp_path):
    two_colours().save(tmp_path / "a.ico")
    assert not holds_image(tmp_path / "a.ico")
    with pytest.raises(UserError, match=r"a\.ico \(not an image .*Pillow"):
        load_image(tmp_path / "a.ico")


def test_a_format_that_this_pillow_does_not_know_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_formats", lambda: tuple(form for form in FORMATS if form != "AVIF"))
    (tmp_path / "a.avif").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a\.avif \(.*Pillow .*not read AVIF"):
        load_image(tmp_path / "a.avif")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pipe_is_not_waited_for(tmp_path, workers):
    os.mkfifo(tmp_path / "a.jpg")
    assert find_corrupt([tmp_path / "a.jpg"], workers=workers) == [(tmp_path / "a.jpg", "neither a file nor a folder")]


def test_a_pgm_of_16_bits_is_scaled_to_8(tmp_path):
    deep = np.array([[0, 255, 256], [257, 32768, 65535]], dtype=">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 3 2 65535\n" + deep.tobytes())
    assert load_image(tmp_path / "a.pgm")[0].tolist() == [[0, 0, 1], [1, 128, 255]]


def test_grey_images_have_three_equal_channels(tmp_path, decoder):
    grey = np.random.default_rng(0).integers(0, 256, (8, 6), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey > 127).save(tmp_path / "bits.png")
    assert np.array_equal(load_image(tmp_path / "a.png").numpy(), np.stack([grey] * 3))
    assert np.array_equal(load_image(tmp_path / "bits.png").numpy(), np.stack([255 * (grey > 127)] * 3))
    Image.fromarray(grey).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.mode == "L"
        assert np.array_equal(load_image(tmp_path / "a.jpg").numpy(), np.stack([np.asarray(image)] * 3))


def test_16_bits_are_scaled_to_8_and_not_cut_off(tmp_path):
    deep = np.array([[0, 255, 256], [257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png")[0].tolist() == [[0, 0, 1], [1, 128, 255]]


def test_16_bits_a_channel_are_scaled_too(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)  # 2 x 1, 16 bits, RGB
    row = b"\x00" + struct.pack(">6H", 65535, 32768, 255, 256, 511, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(row)), chunk(b"IEND", b""))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert load_image(tmp_path / "a.png")[:, 0].T.tolist() == [[255, 128, 0], [1, 1, 0]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_dropped(tmp_path, mode):
    image = two_colours()
    if mode == "PA":  # with a palette of its own colours
        image = image.convert("P", palette=Image.Palette.ADAPTIVE)
    image = image.convert(mode)
    image.putalpha(40)
    image.save(tmp_path / ("a.tiff" if mode == "PA" else "a.png"))
    loaded = load_image(tmp_path / ("a.tiff" if mode == "PA" else "a.png"))
    expected = two_colours().convert("L").convert("RGB") if mode == "LA" else two_colours()
    assert near(pixel(loaded, 2, 2), expected.getpixel((2, 2)), 30 if mode == "PA" else 0)


def test_a_palette_with_transparency_gives_its_colours(tmp_path, recwarn):
    image = two_colours().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    image.save(tmp_path / "a.png", transparency=b"\x00\x80\xff\xff")
    loaded = load_image(tmp_path / "a.png")
    assert near(pixel(loaded, 2, 2), RED, 2)
    assert near(pixel(loaded, 2, 20), BLUE, 2)
    assert not recwarn.list


def test_cmyk_gives_the_colours_that_were_meant(tmp_path, decoder):
    two_colours().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    loaded = load_image(tmp_path / "a.jpg")
    assert near(pixel(loaded, 2, 2), RED, 12)
    assert near(pixel(loaded, 2, 20), BLUE, 12)


# Where red, which is on the left as stored, is seen for each orientation: the two corners of that side.
SEEN = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", SEEN)
def test_images_are_turned_upright_by_their_exif_orientation(tmp_path, orientation, ending, decoder):
    exif = Image.Exif()
    exif[0x0112] = orientation
    two_colours().save(tmp_path / f"a.{ending}", exif=exif)
    loaded = load_image(tmp_path / f"a.{ending}")
    height, width = loaded.shape[1:]
    assert (height, width) == ((16, 24) if orientation < 5 else (24, 16))
    row, column = {
        "left": (height // 2, 2),
        "right": (height // 2, width - 3),
        "top": (2, width // 2),
        "bottom": (height - 3, width // 2),
    }[SEEN[orientation]]
    assert near(pixel(loaded, row, column), RED, 12)
    assert near(pixel(loaded, height - 1 - row, width - 1 - column), BLUE, 12)


def jpeg(**options):
    noise = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", **options)
    return file.getvalue()


def png():
    file = io.BytesIO()
    two_colours(64, 64).save(file, "PNG")
    return file.getvalue()


def floats():
    file = io.BytesIO()
    Image.fromarray(np.ones((4, 4), np.float32)).save(file, "TIFF")
    return file.getvalue()


CORRUPT = {
    "empty.jpg": (b"", "the file is empty"),
    "text.jpg": (b"<html>404</html>", "not an image that Pillow knows"),
    "cut.jpg": (jpeg()[:1500], "image file is truncated"),
    "head.jpg": (jpeg()[:300], "Truncated File Read"),
    "cut.png": (png()[:-60], ""),
    "flipped.png": (png()[:50] + bytes([png()[50] ^ 255]) + png()[51:], ""),
    "floats.tiff": (floats(), "pixels of 32 bits, mode F, have no common range"),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_a_file_that_does_not_decode_is_named_with_the_reason_in_one_sentence(tmp_path, name, decoder):
    content, reason = CORRUPT[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="; .*remove") as caught:
        load_image(tmp_path / name)
    assert str(caught.value).startswith(f"data: cannot read the image {tmp_path / name} ({reason}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jpg \(No such file or directory\)"):
        load_image(tmp_path / "none.jpg")
    with pytest.raises(UserError, match=r"\(Is a directory\)"):
        load_image(tmp_path)


def test_an_image_that_claims_to_be_enormous_is_refused(tmp_path, monkeypatch):
    two_colours().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match=r"cannot read .*a\.png \(Image size"):
        load_image(tmp_path / "a.png")


def test_whatever_the_decoder_raises_becomes_the_sentence(tmp_path, monkeypatch):
    two_colours().save(tmp_path / "a.png")

    def fail(*_, **__):
        raise KeyError

    monkeypatch.setattr("reference_pipelines.data.decoding.Image.open", fail)
    with pytest.raises(UserError, match=r"a\.png \(KeyError\)"):
        load_image(tmp_path / "a.png")


def test_both_decoders_refuse_the_same_jpeg_files(tmp_path, monkeypatch):
    whole, rng, paths = jpeg(), np.random.default_rng(0), []
    for index in range(60):
        damaged = bytearray(whole[: -int(rng.integers(1, 40))] if index % 2 else whole)
        damaged[rng.integers(2, len(damaged))] ^= int(rng.integers(1, 256))
        paths.append(tmp_path / f"{index}.jpg")
        paths[-1].write_bytes(damaged)
    found = find_corrupt(paths, workers=0)
    monkeypatch.setattr(decoding, "decode_jpeg", None)
    assert find_corrupt(paths, workers=0) == found
    assert 15 <= len(found) <= 45


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_corrupt_files_are_found_in_order(tmp_path, workers, monkeypatch):
    monkeypatch.setattr("reference_pipelines.data.decoding._CHECKED_AT_ONCE", 2)
    paths = []
    for index, (name, (content, _)) in enumerate(CORRUPT.items()):
        two_colours().save(tmp_path / f"{index}.jpg")
        (tmp_path / name).write_bytes(content)
        paths += [tmp_path / f"{index}.jpg", tmp_path / name]
    found = find_corrupt([tmp_path / "none.jpg", *paths], workers=workers)
    assert [path.name for path, _ in found] == ["none.jpg", *CORRUPT]
    for (_, reason), expected in zip(found[1:], CORRUPT.values(), strict=True):
        assert reason.startswith(expected[1])
        assert reason
        assert str(tmp_path) not in reason
    assert find_corrupt([], workers=workers) == []


def test_a_whole_data_set_is_left_as_it_is(market, capsys):
    data = read(market)
    assert without_corrupt(data, workers=0) is data
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_left_out_is_named_and_counted(market, capsys, workers):
    data = read(market)
    gone, text = data.train.paths[3], data.gallery.paths[1]
    gone.write_bytes(b"")
    text.write_text("no image")
    kept = without_corrupt(data, workers=workers)
    assert kept.train.paths == tuple(path for path in data.train.paths if path != gone)
    assert kept.gallery.paths == tuple(path for path in data.gallery.paths if path != text)
    assert kept.query.paths == data.query.paths
    assert kept.train.ids.tolist() == [*data.train.ids[:3], *data.train.ids[4:]]
    assert kept.train.cameras.tolist() == [*data.train.cameras[:3], *data.train.cameras[4:]]
    count = sum(len(part) for part in (data.train, data.query, data.gallery))
    assert capsys.readouterr().out.splitlines() == [
        f"data: 2 of {count} images do not decode and are left out:",
        f"  {gone} (the file is empty)",
        f"  {text} (not an image that Pillow knows)",
    ]
    assert find_corrupt(kept.train.paths + kept.gallery.paths, workers=0) == []
    assert str(kept).endswith("; 2 images that do not decode left out")


def test_a_person_without_images_leaves_labels_whole(market):
    data = read(market)
    for path, person in zip(data.train.paths, data.train.ids, strict=True):
        if person == 2:
            path.write_bytes(b"")
    kept = without_corrupt(data, workers=0)
    assert 2 not in kept.train.ids
    assert sorted(set(kept.train.labels().tolist())) == [0, 1, 2, 3, 4]


def test_of_many_only_some_are_named(market, capsys):
    data = read(market)
    for path in data.train.paths[:14]:
        path.write_bytes(b"")
    without_corrupt(data, workers=0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("data: 14 of ")
    assert lines[1:-1] == [f"  {path} (the file is empty)" for path in data.train.paths[:10]]
    assert lines[-1] == f"  and 4 more; python -m reference_pipelines data verify {data.root} --json lists them all"


def test_a_part_of_which_nothing_is_left_is_one_sentence(market):
    data = read(market)
    for path in data.query.paths:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="data: .*query .*decode, none .* 6\\b") as caught:
        without_corrupt(data, workers=0)
    assert str(data.query.paths[0]) in str(caught.value)
    assert "\n" not in str(caught.value)


def png_of(width, height):
    """A PNG file whose header names a size; its rows are zeros, a thousandth as many bytes as pixels or fewer."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pack = zlib.compressobj(9)
    rows = b"".join(pack.compress(bytes(width // 8 + 1)) for _ in range(min(height, 50))) + pack.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_of(width, height, before=b""):
    """A JPEG file of 24 x 16 pixels whose header names another size; `before` stands where the markers begin."""
    file = io.BytesIO()
    two_colours().save(file, "JPEG")
    content = bytearray(file.getvalue())
    at = content.index(b"\xff\xc0") + 5
    assert content[at : at + 4] == struct.pack(">HH", 16, 24)
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content[:2]) + before + bytes(content[2:])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", png_of(50_000, 50_000)),
        ("a.jpg", jpeg_of(50_000, 50_000)),
        ("b.jpg", jpeg_of(65_500, 65_500, b"\xff\xff\xfe\x00\x06abcd")),
        ("a.bmp", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0)),
    ],
)
def test_an_image_too_large_is_named_and_costs_no_memory(tmp_path, name, content, decoder, monkeypatch):
    assert len(content) < 20_000
    (tmp_path / name).write_bytes(content)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        UserError, match=r"Image size \(\d+ pixels\) exceeds limit of 178956970 pixels.*replace or remove"
    ):
        load_image(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    assert find_corrupt([tmp_path / name], workers=0)[0][1].startswith("Image size (")
    assert open_image(tmp_path / name) is None


def test_the_limit_is_ours_whatever_pillows_is(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 24 * 16 - 1)
    for ending in ("png", "jpg"):
        two_colours().save(tmp_path / f"a.{ending}")
        with pytest.raises(UserError, match="exceeds limit of 383 pixels"):
            load_image(tmp_path / f"a.{ending}")
    monkeypatch.setattr(decoding, "MOST_PIXELS", 24 * 16)
    assert load_image(tmp_path / "a.jpg").shape == load_image(tmp_path / "a.png").shape == (3, 16, 24)


@pytest.mark.parametrize(
    "options", [*JPEGS, {"exif": Image.Exif(), "comment": b"c" * 300}, {"icc_profile": b"p" * 70_000}]
)
def test_the_header_of_a_jpeg_names_its_pixels(options):
    file = io.BytesIO()
    two_colours(33, 17).save(file, "JPEG", **options)
    assert decoding.jpeg_pixels(file.getvalue()) == 33 * 17
    assert decoding.jpeg_pixels(file.getvalue()[:20]) == 0
