"""Images of every kind become the pixels that a person sees; folders lose no file in silence."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deltatune.data import decode, images
from deltatune.data.decode import convert_picture, decode_image, eight_bits
from deltatune.data.images import prediction_images, read_image_folder
from deltatune.errors import DataError

RAMP = np.linspace(0, 65535, 32 * 32).reshape(32, 32)
GREY = np.rint(RAMP / 257).astype(np.uint8)


def picture(path: Path, kind: str = "PNG", shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(path, format=kind)
    return path


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("u8.png", GREY),
        ("u16.png", RAMP.astype(np.uint16)),
        ("u16.tif", RAMP.astype(np.uint16)),
        ("big-endian.tif", RAMP.astype(">u2")),
        ("i32.tif", RAMP.astype(np.int32)),
        ("f32.tif", (RAMP / 65535).astype(np.float32)),
        ("f32-of-255.tif", (RAMP / 257).astype(np.float32)),
        ("u16.pgm", RAMP.astype(np.uint16)),
    ],
)
def test_grey_of_any_depth_is_the_same_picture(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    rgb = decode_image(tmp_path / name)
    assert rgb.dtype == np.uint8
    assert rgb.shape == (32, 32, 3)
    assert np.abs(rgb[:, :, 1].astype(int) - GREY).max() <= 1
    assert (decode_image(tmp_path / name, channels=1) == rgb[:, :, :1]).all()


def test_depth_counted_from_white_is_turned_round(tmp_path: Path) -> None:
    for kind in (np.uint16, np.uint8):
        path = tmp_path / f"{kind.__name__}.tif"
        scale = 257 if kind is np.uint16 else 1
        Image.fromarray((GREY.astype(int) * scale).astype(kind)).save(path, tiffinfo={262: 0})
        stored = 255 - GREY if kind is np.uint16 else GREY  # Pillow writes 8 bits turned round already
        assert (decode_image(path)[:, :, 0] == stored).all()


@pytest.mark.parametrize(
    "pixels",
    [
        GREY,
        GREY[:, :, None],
        RAMP.astype(np.uint16),
        RAMP.astype(np.int64)[:, :, None],
        RAMP / 65535,
        (RAMP / 65535).astype(np.float16),
        np.repeat(RAMP[:, :, None], 3, axis=2).astype(np.uint16),
    ],
)
def test_arrays_of_any_type_are_the_same_picture(pixels: np.ndarray) -> None:
    assert np.abs(decode_image(pixels)[:, :, 2].astype(int) - GREY).max() <= 1


def test_truth_values_are_black_and_white() -> None:
    assert set(decode_image(GREY > 100).ravel()) == {0, 255}
    assert set(convert_picture(Image.fromarray(GREY > 100), "x").ravel()) == {0, 255}


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((4, 4), -3, np.int16), "from -3 to -3"),
        (np.full((4, 4), 70000, np.int32), "from 0 to 65535"),
        (np.full((4, 4), 300.0), "from 0 to 255"),
        (np.array([[0.5, np.nan]]), "nan"),
        (np.array([[0.5, np.inf]]), "inf"),
        (np.full((4, 4), 4000, np.uint16), "nearly all is black"),  # 12 bits, or 8 bits in wide numbers
        (np.array([[0.0, 1.02]]), "nearly all is black"),  # from 0 to 1, with what resizing adds
        (np.zeros((4, 4), complex), "complex128"),
    ],
)
def test_what_would_lose_its_content_is_refused(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        eight_bits(pixels, "x.png")


def test_black_is_not_refused() -> None:
    for kind in (np.uint16, np.float32):
        assert not eight_bits(np.zeros((4, 4), kind), "x").any()


def circle(mode: str) -> Image.Image:
    """A red circle whose shape is in the alpha channel alone."""
    rows, columns = np.ogrid[:16, :16]
    alpha = (((rows - 8) ** 2 + (columns - 8) ** 2 < 30) * 255).astype(np.uint8)
    drawn = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    drawn.putalpha(Image.fromarray(alpha))
    return drawn.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "RGBa", "La"])
def test_transparency_is_put_on_white(mode: str) -> None:
    way = {"PA": ["P", "PA"], "La": ["LA", "La"]}.get(mode, [mode])
    source = circle("RGBA")
    for step in way:
        source = source.convert(step)
    rgb = convert_picture(source, "x")
    assert (rgb[0, 0] == 255).all()
    assert rgb[8, 8, 1] < 100


def test_transparency_of_files_is_put_on_white(tmp_path: Path) -> None:
    for name in ("x.png", "x.webp", "x.gif", "x.tif"):
        circle("RGBA").save(tmp_path / name, **({"lossless": True} if name == "x.webp" else {}))
        rgb = decode_image(tmp_path / name)
        assert rgb[0, 0].min() > 250
        assert rgb[8, 8, 1] < 20
    grey = Image.fromarray(GREY)
    grey.save(tmp_path / "key.png", transparency=0)  # one grey that means transparent
    assert decode_image(tmp_path / "key.png")[0, 0, 0] == 255


def test_white_on_transparent_is_refused(tmp_path: Path) -> None:
    blank = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    assert (convert_picture(blank, "x") == 255).all()
    blank.putpixel((3, 3), (255, 255, 255, 255))
    blank.save(tmp_path / "icon.png")
    with pytest.raises(DataError, match=r"icon\.png.*white on transparent"):
        decode_image(tmp_path / "icon.png")


def test_other_colour_spaces(tmp_path: Path) -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    red.convert("CMYK").save(tmp_path / "x.jpg")
    for pixels in (decode_image(tmp_path / "x.jpg"), convert_picture(red.convert("YCbCr"), "x")):
        assert pixels[0, 0, 0] > 240
        assert pixels[0, 0, 1] < 20
    assert (convert_picture(red.convert("HSV"), "x")[0, 0] == (255, 0, 0)).all()
    lab = Image.new("LAB", (4, 4), (136, 208, 195))  # the same red
    assert np.abs(convert_picture(lab, "x")[0, 0].astype(int) - (255, 0, 0)).max() < 20
    for picture in (lab, red.convert("CMYK"), red.convert("HSV"), red.convert("YCbCr")):
        assert abs(int(convert_picture(picture, "x", channels=1)[0, 0, 0]) - 76) < 8  # luma of red


def test_orientation_is_followed_at_any_depth(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in (np.uint8, np.uint16):
        wide = np.full((2, 6), np.iinfo(kind).max, kind)
        Image.fromarray(wide).save(tmp_path / "x.png", exif=exif)
        assert decode_image(tmp_path / "x.png").shape == (6, 2, 3)


def bomb(path: Path, side: int) -> Path:
    """A PNG of few bytes that claims side x side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = (
        chunk(b"IHDR", header),
        chunk(b"IDAT", zlib.compress(bytes(1000))),
        chunk(b"IEND", b""),
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    for side in (10_000, 30_000):  # Pillow itself only warns of the first
        with pytest.raises(DataError, match="too large to be decoded"):
            decode_image(bomb(tmp_path / "x.png", side))


def test_large_files_pipes_and_devices_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match="no regular file"):
            decode_image(path)
    monkeypatch.setattr(decode, "MAX_FILE", 10)
    with pytest.raises(DataError, match="files of up to"):
        decode_image(picture(tmp_path / "x.png"))
    with pytest.raises(DataError, match="cannot be read"):
        decode_image(Path("a\0b.png"))


def test_files_that_run_a_program_are_not_opened(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(DataError, match="broken or no image"):
        decode_image(tmp_path / "x.png")


def test_cut_files_are_errors_of_their_name(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"):
        Image.effect_noise((40, 40), 90).convert("RGB").save(tmp_path / "x", format=kind)
        content = (tmp_path / "x").read_bytes()
        for share in (0.02, 0.3, 0.6):
            (tmp_path / "x").write_bytes(content[: int(len(content) * share)])
            with pytest.raises(DataError, match=r"/x: "):
                decode_image(tmp_path / "x")


def test_files_are_read_by_their_content(tmp_path: Path) -> None:
    for label, name, kind in [
        ("cat", "a.jpg", "JPEG"),
        ("dog", "a.jfif", "JPEG"),
        ("owl", "noname", "PNG"),
        ("fox", "a.avif", "PNG"),
        ("elk", "a.webp", "WEBP"),
        ("bee", "a.png.bak", "PNG"),
    ]:
        picture(tmp_path / label / name, kind)
    table = read_image_folder(str(tmp_path))
    assert [r.columns["label"] for r in table.parts["all"]] == ["bee", "cat", "dog", "elk", "fox", "owl"]
    assert table.warnings == ()


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir", ".thumbnails"])
def test_hidden_folders_are_no_classes(tmp_path: Path, hidden: str) -> None:
    for top in (tmp_path / "flat", tmp_path / "parts/train", tmp_path / "parts/test"):
        for label in ("cat", "dog"):
            picture(top / label / "0.png")
            picture(top / label / hidden / "0-checkpoint.png")
            (top / label / ".DS_Store").touch()
        picture(top / hidden / "0.png")
    picture(tmp_path / "parts" / hidden / "0.png")
    for name, count, left_out in (("flat", 2, 3), ("parts", 4, 7)):
        table = read_image_folder(str(tmp_path / name))
        records = [record for rows in table.parts.values() for record in rows]
        assert len(records) == count
        assert {r.columns["label"] for r in records} == {"cat", "dog"}
        assert len(table.warnings) == 1
        assert f" {left_out} files are not used" in table.warnings[0]


def test_files_not_used_are_counted_and_named(tmp_path: Path) -> None:
    picture(tmp_path / "cat/a.png")
    picture(tmp_path / "dog/deep/a.png")
    picture(tmp_path / "stray.png")
    (tmp_path / "cat/notes.txt").write_text("not an image")
    (tmp_path / "cat/scan.heic").write_bytes(b"\0\0\0\x18ftypheic")
    os.mkfifo(tmp_path / "dog/pipe")
    (tmp_path / "dog/link").symlink_to(tmp_path)
    (warning,) = read_image_folder(str(tmp_path)).warnings
    assert " 5 files are not used" in warning
    assert "cat/notes.txt, cat/scan.heic, dog/link and 2 more" in warning


def test_a_class_without_readable_images_is_an_error(tmp_path: Path) -> None:
    picture(tmp_path / "cat/a.png")
    picture(tmp_path / "dog/a.png")
    (tmp_path / "owl").mkdir()
    (warning,) = read_image_folder(str(tmp_path)).warnings
    assert "owl" in warning
    assert "empty" in warning
    (tmp_path / "owl/a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DataError, match=r"class without images.*owl/a\.heic"):
        read_image_folder(str(tmp_path))


def test_a_file_with_a_suffix_of_images_is_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/broken.jpg").write_bytes(b"no image")
    (record,) = read_image_folder(str(tmp_path)).parts["all"]
    with pytest.raises(DataError, match=r"broken\.jpg"):
        decode_image(record.columns["image"])


def test_what_reading_changes_is_said(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    circle("RGBA").save(tmp_path / "cat/icon.png")
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 100)]
    frames[0].save(tmp_path / "cat/film.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "cat/pages.tif", save_all=True, append_images=frames[1:])
    transparent, several = read_image_folder(str(tmp_path)).warnings
    assert "1 image is put on white, having transparency: cat/icon.png." in transparent
    assert "2 images are read in the first of several frames" in several


def test_two_folders_of_one_part_are_refused(tmp_path: Path) -> None:
    for part in ("train", "val", "validation"):
        picture(tmp_path / part / "cat/a.png")
    with pytest.raises(DataError, match="several folders of validation rows"):
        read_image_folder(str(tmp_path))


def test_prediction_takes_every_visible_file_of_a_folder(tmp_path: Path) -> None:
    for name in ("b/1.png", "a.png", ".hidden/1.png"):
        picture(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"")
    assert [name for name, _ in prediction_images(tmp_path)] == ["a.png", "b/1.png", "broken.png"]
    assert list(prediction_images(tmp_path / "a.png")) == [("a.png", tmp_path / "a.png")]
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "empty", "no files"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(DataError, match=message):
            list(prediction_images(path))


def test_suffixes_are_those_that_are_decoded() -> None:
    Image.init()
    known = {suffix for suffix, kind in Image.EXTENSION.items() if kind in decode._FORMATS}
    assert set(images.SUFFIXES) <= known


@pytest.mark.parametrize(
    ("folder", "source"), [("Photos-1", "Photos-1"), ("Photos-1/Photos", "Photos-1/Photos"), ("a/train", "a")]
)
def test_a_folder_around_the_classes_is_no_class(tmp_path: Path, folder: str, source: str) -> None:
    for label in ("cat", "dog"):
        picture(tmp_path / folder / label / "a.png")
    with pytest.raises(DataError, match="would be the only class") as refused:
        read_image_folder(str(tmp_path))
    assert refused.value.field == str(tmp_path / source)
    parts = read_image_folder(str(tmp_path / source)).parts
    assert [len(records) for records in parts.values()] == [2]
