"""What the audit says about masks, and about volumes, which it reads as training does."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from faults import refused
from PIL import Image
from typer.testing import CliRunner

from medvl.cli import app
from medvl.config import load_config
from medvl.data.audit.audit import Audit, audit_manifest, audit_text
from medvl.data.dataset import load_image, load_mask
from medvl.data.file_checks import Grid
from medvl.data.records import load_manifest, write_manifest
from medvl.evaluation.prediction_sources import FolderSource

Y, X = np.mgrid[:40, :50]
DISC = (Y - 20) ** 2 + (X - 25) ** 2 < 100
RING = ((Y - 20) ** 2 + (X - 25) ** 2 < 150) & ~DISC


def audited(tmp_path: Path, masks: dict[str, np.ndarray], **cells: str) -> Audit:
    """A manifest of one mask a row; the name of a mask is its file's."""
    Image.fromarray(np.zeros(DISC.shape, np.uint8)).save(tmp_path / "image.png")
    for name, array in masks.items():
        Image.fromarray(array.astype(np.uint8)).save(tmp_path / name)
    rows = [{"id": name, "image": "image.png", "mask": name, "patient": "p"} | cells for name in masks]
    write_manifest(tmp_path / "manifest.csv", rows)
    return audit_manifest(tmp_path / "manifest.csv")


def kinds(audit: Audit) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {finding.kind: (finding.severity, finding.ids) for finding in audit.findings}


def test_what_was_decided_is_printed(tmp_path: Path) -> None:
    audit = audited(tmp_path, {"a.png": DISC * 255, "b.png": DISC * 1 + RING * 255, "c.png": DISC * 0})
    counts = audit.counts["masks"]["mask"]
    assert counts["masks"] == 3 and counts["values"] == ["0", "1", "255"]
    assert counts["rules"] == {"one label": 2, "labels, 255 is void": 1}
    share = DISC.mean()
    assert counts["foreground"] == {"mean": pytest.approx(share * 2 / 3), "min": 0, "max": pytest.approx(share)}
    text = audit_text(audit)
    assert "labels, 255 is void (1)" in text and f"{share:.1%}" in text
    assert kinds(audit)["void_mask"] == ("warning", ("b.png",)) and kinds(audit)["empty_mask"][1] == ("c.png",)
    assert audit.counts["splits"]["(none)"]["classes"] == {"mask": {"annotated": 2, "empty": 1}}


def test_declared_values_are_no_finding(tmp_path: Path) -> None:
    audit = audited(tmp_path, {"b.png": DISC * 1 + RING * 255}, mask_values="1")
    assert audit.counts["masks"]["mask"]["rules"] == {"mask_values 1": 1}
    assert not {kind for kind in kinds(audit) if kind.endswith("_mask")}


def test_odd_masks(tmp_path: Path) -> None:
    ramp = np.rint(np.linspace(0, 255, 50))[None].repeat(40, 0)
    red = np.dstack([DISC * 255, DISC * 0, DISC * 0])
    masks = {
        "inverted.png": ~DISC * 255,
        "picture.png": ramp,
        "noise.jpg": np.kron(np.random.default_rng(0).integers(0, 4, (5, 7)), np.ones((8, 8)))[:, :50],
        "several.png": DISC * 1 + RING * 2,
        "red.png": red,
        "corner.png": (Y < 38) & (X < 48),  # most of the image, but not all its borders
    }
    found = kinds(audited(tmp_path, masks))
    assert found["inverted_mask"] == ("warning", ("inverted.png",))
    assert found["picture_mask"][1] == ("picture.png",) and found["grey_mask"][1] == ("picture.png",)
    assert found["noise_mask"] == ("warning", ("noise.jpg",)) and "noise.jpg" in found["empty_mask"][1]
    assert found["labels_mask"] == ("info", ("several.png",)) and found["colour_mask"] == ("info", ("red.png",))


def test_colours_in_a_manifest(tmp_path: Path) -> None:
    picture = np.dstack([DISC * 255, RING * 255, DISC * 0])
    audit = audited(tmp_path, {"a.png": picture}, mask_values="#FF0000")
    assert audit.exit_code == 0 and audit.counts["masks"]["mask"]["foreground"]["mean"] == pytest.approx(DISC.mean())
    table = load_manifest(tmp_path / "manifest.csv", classes={"disc": ["#ff0000"], "ring": ["#00ff00"]}).records[0]
    values = {name: mask and mask.values for name, mask in table.masks.items()}
    assert values == {"disc": ("#ff0000",), "ring": ("#00ff00",)}
    assert audited(tmp_path, {"a.png": picture}).num_faults == 1  # several colours and no table
    for cell in ("red", "1|#ff0000", "#ff00", "0"):
        assert audited(tmp_path, {"a.png": picture}, mask_values=cell).num_faults >= 1, cell


def test_a_folder_of_masks_is_read_like_true_masks(tmp_path: Path) -> None:
    """Each form of one mask; the predictions have the forms of the true masks."""
    palette = Image.fromarray((~DISC).astype(np.uint8), mode="P")
    palette.putpalette([255, 255, 255, 0, 0, 0])
    grey = np.where(DISC, 255, 0).astype(np.uint8)
    alpha = np.dstack([np.full_like(grey, 255)] * 3 + [grey])
    pictures = {"a.gif": palette, "b.png": Image.fromarray(alpha), "c.jpg": Image.fromarray(grey)}
    (tmp_path / "masks").mkdir()
    Image.fromarray(grey * 0).save(tmp_path / "image.png")
    for name, picture in pictures.items():
        picture.save(tmp_path / "masks" / name)
    rows = [{"id": name[0], "image": "image.png", "mask": f"masks/{name}", "patient": "p"} for name in pictures]
    write_manifest(tmp_path / "manifest.csv", rows)
    records = load_manifest(tmp_path / "manifest.csv").records
    source = FolderSource(tmp_path / "masks")
    source.check(records, ["mask"])
    for masks in source.masks(records, [""] * len(records)):
        assert (masks["mask"] == DISC).all()
    assert audit_manifest(tmp_path / "manifest.csv").counts["masks"]["mask"]["foreground"] == {
        key: pytest.approx(DISC.mean()) for key in ("mean", "min", "max")
    }


AFFINE = np.array([[-0.5, 0, 0, 90], [0, -0.7, 0, 120], [0, 0, 2, -40], [0, 0, 0, 1]])


def moved(row: int, column: int, value: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[row, column] = value
    return affine


@pytest.mark.parametrize(
    "affine, fits",
    [
        (AFFINE, True),
        (AFFINE + 1e-5, True),  # rounding of another writer
        (np.eye(4), False),
        (np.diag([-0.5, -0.7, 2, 1]), False),  # the same spacing, elsewhere
        (moved(0, 0, 0.5), False),  # the other way round
        (moved(1, 1, -0.72), False),  # another spacing
        (moved(2, 3, -38), False),  # the next slice
        (moved(0, 1, 0.1), False),  # turned a little
        (AFFINE[[1, 0, 2, 3]], False),  # rows for columns
    ],
)
def test_a_volume_that_lies_otherwise_is_a_fault(tmp_path: Path, affine: np.ndarray, fits: bool) -> None:
    pixels = np.random.default_rng(0).random((12, 10, 1)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(pixels, AFFINE), tmp_path / "a.nii.gz")
    (tmp_path / "masks").mkdir()
    for name in ("mask.nii.gz", "masks/a.nii.gz"):
        nibabel.save(nibabel.Nifti1Image((pixels > 0.5).astype(np.uint8), affine), tmp_path / name)
    row = {"id": "a", "image": "a.nii.gz", "mask": "mask.nii.gz", "patient": "p", "split": "val"}
    write_manifest(tmp_path / "manifest.csv", [row])
    audit = audit_manifest(tmp_path / "manifest.csv")
    assert audit.num_faults == (not fits) and audit.exit_code == (0 if fits else 2)
    records = load_manifest(tmp_path / "manifest.csv", check_files=False).records
    if fits:
        FolderSource(tmp_path / "masks").check(records, ["mask"])
        load_manifest(tmp_path / "manifest.csv")
        return
    for attempt in (
        lambda: load_manifest(tmp_path / "manifest.csv"),
        lambda: FolderSource(tmp_path / "masks").check(records, ["mask"]),
    ):
        with refused("mismatch") as caught:
            attempt()
        (fault,) = caught.value.faults
        assert fault.record == "a" and fault.expected and fault.remedy


def test_units_of_a_volume(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((12, 10, 1)).astype(np.float32)
    metres = nibabel.Nifti1Image(pixels, np.diag([1e-3, 1e-3, 1e-3, 1]) @ AFFINE)
    metres.header.set_xyzt_units("meter")
    nibabel.save(metres, tmp_path / "a.nii")
    nibabel.save(nibabel.Nifti1Image((pixels > 0.5).astype(np.uint8), AFFINE), tmp_path / "m.nii")
    write_manifest(tmp_path / "manifest.csv", [{"id": "a", "image": "a.nii", "mask": "m.nii", "patient": "p"}])
    assert audit_manifest(tmp_path / "manifest.csv").num_faults == 0


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
