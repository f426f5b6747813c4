"""Folders, globs and manifests -> images with names of their own."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from faults import refused
from PIL import Image as PILImage

from medvl.core.errors import InputError
from medvl.data.images import parse_slice, slices_of
from medvl.inference.inputs import list_images


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(np.full((6, 5), 90, np.uint8)).save(path)
    return path


def volume(path: Path, num: int) -> Path:
    nibabel.save(nibabel.Nifti1Image(np.arange(4 * 5 * num, dtype=np.int16).reshape(4, 5, num), np.eye(4)), path)
    return path


def test_a_folder_with_all_below_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    image(folder / "b.png")
    image(folder / "deep" / "deeper" / "a.jpg")
    image(folder / "no_suffix.png").rename(folder / "no_suffix")
    volume(folder / "v.nii.gz", 1)
    for name in ("notes.txt", "._b.png", "table.csv", "deep/thumbs.db"):
        (folder / name).write_bytes(b"\0\5 no image")
    image(folder / ".hidden" / "c.png")
    image(folder / "out" / "b_overlay.png")
    found = list_images([folder], out=folder / "out")
    assert sorted(one.name for one in found) == ["a", "b", "no_suffix", "v"]
    said = capsys.readouterr().err
    assert "4 images" in said and "4 files that are no images" in said and "below" in said


def test_damaged_images_of_all_inputs_are_one_error(tmp_path: Path) -> None:
    image(tmp_path / "set" / "good.png")
    (tmp_path / "set" / "bad.png").write_bytes(b"not an image")
    with refused("damaged", "missing_file", "ambiguous") as caught:
        list_images([tmp_path / "set", tmp_path / "missing.png", volume(tmp_path / "v.nii.gz", 3)])
    text = str(caught.value)
    assert len(caught.value.faults) == 3 and "bad.png" in text and "missing.png" in text and "--slice" in text


def test_globs(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        image(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    assert [one.name for one in list_images([f"{tmp_path}/*/*.png"])] == ["1", "2", "3"]
    assert [one.name for one in list_images([f"{tmp_path}/a*"])] == ["1", "2"]  # a folder that matches is read
    assert len(list_images([f"{tmp_path}/**/*"])) == 3
    assert len(list_images([f"{tmp_path}/a/*", tmp_path / "a" / "1.png"])) == 2  # each file once
    with refused("missing_file"):
        list_images([f"{tmp_path}/*.dcm"])


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["study1/1-1.png", "study2/1-1.png"], ["study1-1-1", "study2-1-1"]),
        (["a/x/1.png", "a/y/1.png", "b/x/1.png", "b/2.png"], ["a-x-1", "a-y-1", "b-x-1", "2"]),
        (["a/1.png", "a/1.jpg", "b/2.png"], ["1-png", "1-jpg", "2"]),
        (["a/1.png", "b/1.png", "c/a-1.png"], ["A-a-1", "A-b-1", "c-a-1"]),
    ],
)
def test_equal_names_get_their_folders(tmp_path: Path, files: list[str], names: list[str]) -> None:
    found = [one.name for one in list_images([image(tmp_path / "A" / name) for name in files])]
    assert found == names


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".xlsx"])
def test_a_manifest_gives_ids_and_texts(tmp_path: Path, suffix: str) -> None:
    from medvl.data.records import write_manifest

    image(tmp_path / "set" / "i.png")
    rows = [{"id": f"r{k}", "image": "i.png", "text": text} for k, text in enumerate(("left lung", "right lung"))]
    write_manifest(tmp_path / "set" / f"m{suffix}", rows)
    found = list_images([tmp_path / "set" / f"m{suffix}"])
    assert [(one.name, one.record.text if one.record else "") for one in found] == [
        ("r0", "left lung"), ("r1", "right lung")
    ]  # fmt: skip


def test_a_table_without_ids_is_named_by_its_images(tmp_path: Path) -> None:
    image(tmp_path / "i.png")
    image(tmp_path / "j.png")
    (tmp_path / "m.csv").write_text("image,text\ni.png,left lung\nj.png,left lung\nj.png,right lung\n")
    found = list_images([tmp_path / "m.csv"])
    assert [one.record.text for one in found if one.record] == ["left lung", "left lung", "right lung"]
    assert found[0].name == "i" and len({one.name for one in found}) == 3
    (tmp_path / "bad.csv").write_text("image,text\ni.png,left lung\nabsent.png,left lung\n")
    with refused("missing_file"):
        list_images([tmp_path / "bad.csv"])


def test_slices(tmp_path: Path) -> None:
    path, flat = volume(tmp_path / "v.nii.gz", 3), image(tmp_path / "i.png")
    assert slices_of(path, "all") == (0, 1, 2) and slices_of(path, 2) == (2,) and slices_of(path, None, 1) == (1,)
    assert slices_of(flat, "all") == slices_of(flat, None, 5) == slices_of(flat, 0) == (None,)
    for choice in (None, 3):
        with pytest.raises(InputError):
            slices_of(path, choice)
    with refused("out_of_range"):
        slices_of(flat, 1)
    # Three planes of bytes are colours, unless a slice is asked for.
    planes = nibabel.Nifti1Image(np.zeros((20, 18, 3), np.uint8), np.eye(4))
    nibabel.save(planes, tmp_path / "rgb.nii.gz")
    assert slices_of(tmp_path / "rgb.nii.gz", None) == (None,)
    assert slices_of(tmp_path / "rgb.nii.gz", "all") == (0, 1, 2) and slices_of(tmp_path / "rgb.nii.gz", 2) == (2,)
    pages = [PILImage.fromarray(np.full((6, 5), k, np.uint8)) for k in (1, 2)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert slices_of(tmp_path / "pages.tif", "all") == (0, 1)
    with refused("ambiguous"):
        slices_of(tmp_path / "pages.tif", None)
    assert parse_slice("2") == 2 and parse_slice("all") == "all" and parse_slice(None) is None
    for word in ("-1", "1.5", "first"):
        with refused("malformed"):
            parse_slice(word)
