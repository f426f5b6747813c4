"""Whose masks a label fraction shows: shares are those of the annotated patients, rounded."""

from __future__ import annotations

from pathlib import Path

from medvl.config import make_config
from medvl.data.labels import labelled_patients, training_records
from medvl.data.record import MaskRef, Record


def record(patient: int, image: int, mask: MaskRef | None) -> Record:
    name = f"{patient}_{image}"
    masks = {"mask": mask}
    return Record(name, Path(f"{name}.png"), "", masks, (), (), f"p{patient}", None, None, "train", None, {}, 2)


# Patients 0..10 are annotated (one film with a mask, one without a mask cell; 10 was looked at and has nothing), 11..40
# are not.
RECORDS = [
    record(patient, image, (MaskRef(Path("m.png") if patient < 10 else None) if patient < 11 and image else None))
    for patient in range(41)
    for image in range(2)
]
ANNOTATED = {f"p{patient}" for patient in range(11)}


def test_patients_without_annotation_count_for_no_fraction() -> None:
    parts = {fraction: labelled_patients(RECORDS, fraction, 0) for fraction in (0.01, 0.1, 0.25, 0.5, 1.0)}
    # Of 11: 0.11 -> at least one; 1.1; 2.75, rounded up; 5.5, to the even number.
    assert [len(part) for part in parts.values()] == [1, 1, 3, 6, 11] and parts[1.0] == ANNOTATED
    with_mask = [row for row in RECORDS if row.patient in ANNOTATED]
    assert all(labelled_patients(with_mask, fraction, 0) == part for fraction, part in parts.items())


def test_images_without_annotation_count_for_no_fraction_of_images() -> None:
    parts = [labelled_patients(RECORDS, fraction, 0, "image") for fraction in (0.25, 1.0)]
    assert len(parts[0]) == 3 and parts[1] == {f"{patient}_1" for patient in range(11)}


def test_what_is_not_annotated_takes_part_in_semi_supervision_only() -> None:
    config = make_config({"data": {"label_fraction": 0.25}})
    rows, hidden, counts = training_records(RECORDS, config)
    assert {row.patient for row in rows} == labelled_patients(RECORDS, 0.25, config.train.seed)
    assert counts["labelled_patients"] == counts["labelled_images"] == 3 and counts["hidden_masks"] == len(hidden) == 8
    assert counts["unlabelled_records"] == 0 and counts["left_out_records"] == 82 - 3
    semi = make_config({"data": {"label_fraction": 0.25}, "semi": {"epi": "labels"}})
    rows, _, counts = training_records(RECORDS, semi)
    assert len(rows) == 82 and counts["labelled_patients"] == 3 and counts["unlabelled_records"] == 79
