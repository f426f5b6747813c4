"""What the audit says about masks, and volumes that lie otherwise than their image."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from faults import refused
from PIL import Image

from medvl.data.audit.audit import Audit, audit_manifest, audit_text
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
    assert {name: mask and mask.values for name, mask in table.masks.items()} == {
        "disc": ("#ff0000",),
        "ring": ("#00ff00",),
    }
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
