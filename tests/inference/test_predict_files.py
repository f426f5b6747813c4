"""medvl predict: files at native size, one row each."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from faults import refused
from PIL import Image as PILImage
from runs import medvl

from medvl.core.errors import InputError, UnfinishedError
from medvl.data.images import read_image
from medvl.data.masks import read_mask
from medvl.inference.batch import predict_files
from medvl.inference.predictor import Predictor


def test_masks_overlays_and_table(tiny_run: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    images = [tiny_manifest.parent / f"i{i}.png" for i in (0, 1)]
    out = tmp_path / "out"
    done = medvl(
        "predict", tiny_run, *images, "--text", "the left lung", "--text", "right lung", "--out", out, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["predictions"]) == 4
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["the left lung", "right lung"] * 2
    for row in rows:
        mask = np.asarray(PILImage.open(out / row["mask"]))
        assert mask.shape == (48, 40) and set(np.unique(mask)) <= {0, 255}
        assert int((mask > 0).sum()) == int(row["pred_px"])
        assert (out / row["overlay"]).is_file()


def test_faults_come_together_and_before_any_file(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not an image")
    done = medvl(
        "predict", tiny_run, tmp_path / "bad.png", tmp_path / "missing.png", "--text", "x", "--out", tmp_path / "o"
    )
    assert done.returncode == 2
    assert "bad.png" in done.stderr and "missing.png" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_text_model_needs_text(tiny_run: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    done = medvl("predict", tiny_run, tiny_manifest.parent / "i0.png", "--out", tmp_path / "o")
    assert done.returncode == 2 and "--text" in done.stderr


def table(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def bright_volume(path: Path, rng: np.random.Generator) -> Path:
    """A (48, 40, 4) volume that lies in its file in another order than RAS, with discs that the tiny model answers."""
    x, y, z = np.mgrid[:40, :48, :4]
    ras = rng.normal(60, 12, x.shape) + 120 * ((x - 10 - z) ** 2 + (y - 24) ** 2 < 49)
    affine = np.array([[0, -0.7, 0, 5], [0.8, 0, 0, -3], [0, 0, -2.5, 9], [0, 0, 0, 1]], dtype=float)
    nibabel.save(nibabel.Nifti1Image(ras.transpose(1, 0, 2)[:, ::-1, ::-1].astype(np.int16), affine), path)
    return path


def test_all_slices_are_one_volume_that_equals_each_slice(tiny_run: Path, tmp_path: Path) -> None:
    path = bright_volume(tmp_path / "v.nii.gz", np.random.default_rng(3))
    probs = Predictor.load(tiny_run).set_image(read_image(path, slice_index=1)).segment("the right lung").probs
    level = float(np.median(probs))  # of a model that has learnt next to nothing
    rows = predict_files(tiny_run, [path], ["the right lung"], tmp_path / "all", choice="all", threshold=level)
    assert len(rows) == 1 and rows[0]["slice"] == "all" and rows[0]["mask"] == "v__the-right-lung.nii.gz"
    source, whole = nibabel.load(path), nibabel.load(tmp_path / "all" / rows[0]["mask"])
    assert whole.shape == source.shape and np.allclose(whole.affine, source.affine)
    total = np.zeros(source.shape)
    for index in range(4):
        one = predict_files(tiny_run, [path], ["the right lung"], tmp_path / str(index), choice=index, threshold=level)[
            0
        ]
        total += np.asarray(nibabel.load(tmp_path / str(index) / one["nifti"]).dataobj)
    values = np.asarray(whole.dataobj)
    assert (values == total).all() and 0 < values.sum() == rows[0]["pred_px"] and set(np.unique(values)) == {0, 1}
    assert len({int(part.sum()) for part in np.moveaxis(values, 2, 0)}) > 1
    assert sorted(one.name for one in (tmp_path / "all").iterdir()) == [
        "predictions.csv", "v__the-right-lung.nii.gz", "v__the-right-lung_overlay.png"
    ]  # fmt: skip


def test_frames_of_a_dicom(tiny_run: Path, tmp_path: Path) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    rng = np.random.default_rng(1)
    frames = rng.integers(0, 200, (3, 48, 40)).astype(np.uint8)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7.2", "1.2.3"
    data.Rows, data.Columns, data.NumberOfFrames, data.SamplesPerPixel = 48, 40, 3, 1
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation, data.PhotometricInterpretation = 7, 0, "MONOCHROME2"
    data.PixelSpacing = [0.5, 0.25]
    data.PixelData = frames.tobytes()
    path = tmp_path / "f.dcm"
    data.save_as(path, enforce_file_format=True)
    whole = predict_files(tiny_run, [path], ["the left lung"], tmp_path / "all", choice="all", threshold=0.3)[0]
    volume = nibabel.load(tmp_path / "all" / whole["mask"])
    assert volume.shape == (40, 48, 3) and np.allclose(volume.header.get_zooms()[:2], (0.25, 0.5))
    for index in range(3):
        one = predict_files(tiny_run, [path], ["the left lung"], tmp_path / str(index), choice=index, threshold=0.3)[0]
        mask = read_mask(tmp_path / str(index) / one["mask"])
        assert (read_mask(tmp_path / "all" / whole["mask"], slice_index=index) == mask).all()
    for choice in (None, 3):
        with pytest.raises(InputError) as caught:
            predict_files(tiny_run, [path], ["the left lung"], tmp_path / "none", choice=choice)
        assert caught.value.exit_code == 2 and "--slice" in str(caught.value)
    assert not (tmp_path / "none").exists()


def test_what_is_done_is_kept_when_an_image_is_cut_off(tiny_run: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    whole = tiny_manifest.parent / "i0.png"
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:-300])  # its header is as it was
    with pytest.raises(UnfinishedError) as caught:
        predict_files(tiny_run, [whole, cut, tiny_manifest.parent / "i1.png"], ["the left lung"], tmp_path / "o")
    assert caught.value.exit_code == 1 and "cut.png" in str(caught.value)
    assert [row["id"] for row in table(tmp_path / "o")] == ["i0", "i1"]
    with refused("damaged") as caught_all:
        predict_files(tiny_run, [cut], ["the left lung"], tmp_path / "none")
    assert caught_all.value.exit_code == 2 and not (tmp_path / "none").exists()


def test_rows_of_a_manifest_are_asked_with_their_own_texts(
    tiny_run: Path, tiny_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows_of = tiny_manifest.read_text().splitlines()
    small = tiny_manifest.parent / "small.csv"
    small.write_text("\n".join(rows_of[:4]) + "\n")
    rows = predict_files(tiny_run, [small], [], tmp_path / "own")
    assert len(rows) == 3 and rows[0]["id"] == "c0_right" and rows[0]["text"] == "the right lung"
    one = predict_files(tiny_run, [tiny_manifest.parent / "i0.png"], ["the right lung"], tmp_path / "one")[0]
    assert (read_mask(tmp_path / "own" / rows[0]["mask"]) == read_mask(tmp_path / "one" / one["mask"])).all()
    capsys.readouterr()
    rows = predict_files(tiny_run, [small], ["the left lung"], tmp_path / "asked")
    assert {row["text"] for row in rows} == {"the left lung"} and "--text" in capsys.readouterr().err
    short = tmp_path / "short.csv"
    short.write_text(f"id,image,text\na,{tiny_manifest.parent / 'i0.png'},\n")
    with refused("missing"):
        predict_files(tiny_run, [short], [], tmp_path / "none")


def test_overlays_show_what_a_file_of_more_bits_holds(tiny_run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    level = np.clip(rng.normal(0.5, 0.15, (48, 40)), 0, 1)
    medians = []
    for name, values in (
        ("ten.tif", (1023 * level).astype(np.uint16)),
        ("twelve.png", (4095 * level).astype(np.uint16)),
        ("dark.png", (30 * level).astype(np.uint8)),
        ("full.png", (255 * level).astype(np.uint8)),
    ):
        PILImage.fromarray(values).save(tmp_path / name)
        row = predict_files(tiny_run, [tmp_path / name], ["the left lung"], tmp_path / "o", threshold=1.0)[0]
        medians.append(float(np.median(np.asarray(PILImage.open(tmp_path / "o" / row["overlay"]).convert("L"))[:-28])))
    assert max(medians) - min(medians) < 8 and 110 < medians[0] < 145
