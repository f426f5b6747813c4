"""The audit reads volumes as training does: by the recipe, an override or `--slice`."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from medvl.cli import app
from medvl.config import load_config
from medvl.data.audit.audit import audit_manifest
from medvl.data.dataset import load_image, load_mask
from medvl.data.file_checks import Grid
from medvl.data.records import load_manifest


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["id,image,text,mask,patient,split"]
    for i in range(2):
        values = rng.integers(0, 900, (18, 19, 3)).astype(np.int16)
        mask = np.zeros((18, 19, 3), np.uint8)  # of bytes, which in a picture would be colours
        mask[2:4, 2:5, 1] = 1  # in the middle slice alone
        for name, array in (("v", values), ("s", mask)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}{i}.nii.gz")
        lines.append(f"a{i},v{i}.nii.gz,a text,s{i}.nii.gz,p{i},{('train', 'val')[i]}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "seg.yaml").write_text("data: {manifest: m.csv, slice_index: 1}\n")
    return tmp_path / "m.csv"


def test_the_recipe_decides_as_in_training(volumes: Path) -> None:
    config = load_config(volumes.parent / "seg.yaml")
    record = load_manifest(volumes).records[0]
    reference = record.masks["mask"]
    assert reference is not None and load_mask(reference, load_image(record.image, config.data), config.data).any()
    for words in (["--recipe", str(volumes.parent / "seg.yaml")], ["data.slice_index=1"], ["--slice", "all"]):
        done = CliRunner().invoke(app, ["data", "audit", str(volumes), *words])
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["data", "audit", str(volumes)])
    assert done.exit_code == 2 and "--slice" in done.output


def test_masks_are_empty_in_the_slice_that_is_read(volumes: Path) -> None:
    assert audit_manifest(volumes, slices=0).counts["splits"]["train"]["classes"]["mask"] == {"empty": 1}
    for slices in (1, "all"):
        assert audit_manifest(volumes, slices=slices).counts["splits"]["train"]["classes"]["mask"] == {"annotated": 1}
    assert audit_manifest(volumes, slices=3).num_faults == 4


def test_a_mask_of_one_slice_fits_a_picture_and_no_volume(tmp_path: Path) -> None:
    for name, kind in (("picture", np.uint8), ("volume", np.int16)):
        values = np.arange(18 * 19 * 3).reshape(18, 19, 3).astype(kind)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.ones((18, 19, 1), np.uint8), np.eye(4)), tmp_path / "mask.nii.gz")
    mask, picture, whole = (Grid.of(tmp_path / f"{name}.nii.gz") for name in ("mask", "picture", "volume"))
    assert mask.difference(picture) is None and mask.difference(whole) is not None
