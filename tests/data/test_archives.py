"""NumPy archives of images: every type of pixel, and nothing unpacked that does not fit."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deltatune.data import archives
from deltatune.data.archives import read_npz
from deltatune.errors import DataError

RAMP = np.linspace(0, 65535, 2 * 16 * 16).reshape(2, 16, 16)
LABELS = np.arange(2)


@pytest.mark.parametrize(
    "pixels",
    [
        RAMP.astype(np.uint16),
        RAMP.astype(np.int64),
        RAMP / 65535,
        (RAMP / 257).astype(np.float32),
        np.repeat(RAMP[..., None], 3, axis=3).astype(np.uint16),
    ],
)
def test_pixels_of_any_type_are_scaled_alike(tmp_path: Path, pixels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", images=pixels, labels=LABELS)
    for record, image in zip(read_npz(str(tmp_path / "a.npz")).parts["all"], RAMP / 257, strict=True):
        grey = record.columns["image"].reshape(16, 16, -1)[:, :, 0]
        assert grey.dtype == np.uint8
        assert np.abs(grey - image).max() <= 1


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (RAMP.astype(np.int32) - 9, "from -9"),
        (RAMP.astype(np.uint16) // 257, "nearly all is black"),
        (np.zeros((2, 3, 16, 16), np.uint8), "with 1 to 4 channels"),
    ],
)
def test_pixels_without_a_scale_are_refused(tmp_path: Path, pixels: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "a.npz", images=pixels, labels=LABELS)
    with pytest.raises(DataError, match=rf"a\.npz, all images.*{message}"):
        read_npz(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint64, ">i8"])
def test_pixels_of_8_bits_in_a_wider_type_are_kept(tmp_path: Path, kind: str) -> None:
    grey = (RAMP // 257).astype(np.uint8)
    np.savez(
        tmp_path / "a.npz", train_images=grey.astype(kind), train_labels=LABELS,
        test_images=grey[:1, :1, :2].astype(kind), test_labels=LABELS[:1],
    )  # fmt: skip
    found = read_npz(str(tmp_path / "a.npz"))
    for records in found.parts.values():
        for record, image in zip(records, grey, strict=False):
            seen = record.columns["image"]
            np.testing.assert_array_equal(seen, image[: len(seen), : len(seen[0])])
    [said] = found.warnings
    assert said == f"a.npz: its {np.dtype(kind)} pixels lie within 0..255 and are read as pixels of 8 bits."


def test_one_part_beyond_8_bits_decides_for_all(tmp_path: Path) -> None:
    wide = RAMP.astype(np.int64)
    labels = {"train_labels": LABELS, "test_labels": LABELS}
    np.savez(tmp_path / "a.npz", train_images=wide, test_images=wide // 257, **labels)
    with pytest.raises(DataError, match=r"test images: has int64 pixels up to 255 of 65535"):
        read_npz(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("pixels", [RAMP.astype(np.int64) // 257 - 1, (RAMP > 9).astype(np.int64)])
def test_wide_numbers_of_another_meaning_stay_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", images=pixels, labels=LABELS)
    with pytest.raises(DataError, match=r"from -1 to 254|up to 1 of 65535"):
        read_npz(str(tmp_path / "a.npz"))


def test_members_of_other_names_are_named_and_not_read(tmp_path: Path) -> None:
    pixels = RAMP.astype(np.uint16)
    np.savez(tmp_path / "a.npz", images=pixels, labels=LABELS, masks=np.array([{}]))
    assert read_npz(str(tmp_path / "a.npz")).warnings == ("a.npz: not used: 'masks'.",)


def test_two_arrays_of_one_meaning_are_refused(tmp_path: Path) -> None:
    pixels = RAMP.astype(np.uint16)
    np.savez(tmp_path / "a.npz", x_train=pixels, train_images=pixels, y_train=LABELS)
    with pytest.raises(DataError, match="two arrays"):
        read_npz(str(tmp_path / "a.npz"))


def test_what_does_not_fit_into_memory_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((2, 1000, 1000), np.uint8), labels=LABELS)
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    free = SimpleNamespace(available=1_000_000)
    monkeypatch.setattr(archives.psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(DataError, match="memory are free"):
        read_npz(str(tmp_path / "a.npz"))


def member(shape: tuple[int, ...], content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


@pytest.mark.parametrize("shape", [(2, 10**7, 10**7), (2, -4, 4), (2, 4, 3), (2**62, 4, 4)])
def test_headers_that_promise_another_size_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", member(shape, bytes(32)))
        archive.writestr("labels.npy", member((2,), bytes(2)))
    with pytest.raises(DataError, match="no archive of plain arrays"):
        read_npz(str(tmp_path / "a.npz"))


def test_damaged_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=RAMP.astype(np.uint16), labels=LABELS)
    content = path.read_bytes()
    encrypted = bytearray(content)
    for mark in (b"PK\x03\x04", b"PK\x01\x02"):
        at = content.index(mark) + (6 if mark[2] == 3 else 8)
        encrypted[at] |= 1
    plain = io.BytesIO()
    np.save(plain, RAMP)
    middle = len(content) // 3
    flipped = content[:middle] + bytes(64) + content[middle + 64 :]
    for damaged in (b"", content[:-30], flipped, bytes(encrypted), plain.getvalue()):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.npz"):
            read_npz(str(path))


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(DataError, match="is no file"):
        read_npz(str(tmp_path / "a.npz"))
