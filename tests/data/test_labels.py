"""Whose masks a label fraction shows: shares are those of the annotated patients, rounded; batches of both kinds."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from medvl.config import load_config, make_config
from medvl.data.labels import fixed_rows, labelled_patients, training_records
from medvl.data.record import MaskRef, Record
from medvl.data.records import load_manifest
from medvl.data.sampler import MixedSampler


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


def test_fractions_are_nested_and_the_same_for_every_method(tiny_manifest: Path) -> None:
    records = load_manifest(tiny_manifest).split("train")
    parts = [labelled_patients(records, fraction, 0) for fraction in (0.01, 0.25, 0.5, 1.0)]
    assert [len(part) for part in parts] == [1, 2, 4, 8]
    assert all(small <= large for small, large in pairwise(parts))
    assert labelled_patients(records[::-1], 0.25, 0) == parts[1]
    assert any(labelled_patients(records, 0.25, seed) != parts[1] for seed in range(1, 5))


def test_fixed_rows(tiny_manifest: Path) -> None:
    records = load_manifest(tiny_manifest).split("train")
    kept = fixed_rows(records, 1, 0)
    assert len(kept) == 8 and len({row.image for row in kept}) == 8
    assert fixed_rows(records[::-1], 1, 0) == kept[::-1]


def test_half_of_each_batch_is_unlabelled() -> None:
    sampler = MixedSampler([0, 1, 2], list(range(3, 13)), 4, seed=0, num_batches=None)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 5  # ten unlabelled images, two a batch
    assert all(sum(index < 3 for _, index in batch) == 2 for batch in batches)
    assert sorted(i for batch in batches for _, i in batch if i >= 3) == list(range(3, 13))
    assert len({item for batch in batches for item in batch}) == 20  # nobody comes twice in the same way
    sampler.start = 2
    assert list(sampler) == batches[2:]
    sampler.start, sampler.epoch = 0, 1
    assert not {item for batch in batches for item in batch} & {item for batch in sampler for item in batch}


def test_also_labelled(tiny_recipe: Path, tmp_path: Path) -> None:
    manifest = load_manifest(load_config(tiny_recipe).data.manifest)
    plain = load_config(tiny_recipe, ["data.label_fraction=0.4"])
    _, hidden, before = training_records(manifest.split("train"), plain)
    patient = next(r.patient for r in manifest.split("train") if r.id in hidden)
    (tmp_path / "more.csv").write_text(f"patient\n{patient}\n")
    config = load_config(tiny_recipe, ["data.label_fraction=0.4", f"data.also_labelled={tmp_path / 'more.csv'}"])
    _, fewer, after = training_records(manifest.split("train"), config)
    assert fewer < hidden and after["labelled_patients"] == before["labelled_patients"] + 1
