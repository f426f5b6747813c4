"""Label fractions by patient; class labels: known, unknown and negative names, one sample per image."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from faults import refused
from PIL import Image

from medvl.config import ClassifyConfig, Config, DataConfig, load_config, make_config
from medvl.data.class_labels import ClassDataset, FeatureDataset, class_labels, find_classes, labelled_part, with_labels
from medvl.data.dataset import collate
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


def records(*rows: str) -> list[Record]:
    """`labels/unknown/image` each, as cells; the id is the place."""
    found = []
    for i, row in enumerate(rows):
        labels, unknown, image = (*row.split("/"), "", "")[:3]
        extra = {"labels_unknown": unknown} if unknown else {}
        names = () if labels == "none" else tuple(filter(None, labels.split("|")))
        path = Path(image or f"{i}.png")
        row = Record(f"r{i}", path, "", {}, (), names, f"p{i}", None, None, "train", None, extra, i + 2)
        found.append(replace(row, labels_absent=labels == "none"))
    return found


def test_present_absent_and_unknown() -> None:
    rows = records("a|b", "b/a", "none", "/a|b", "c|a", "")
    config = ClassifyConfig(classes=["b", "a"])
    assert find_classes(rows, ClassifyConfig()) == ("a", "b", "c")
    found = class_labels(rows, find_classes(rows, config), config)
    expected = [[1, 1], [1, np.nan], [0, 0], [0, 1]]
    np.testing.assert_array_equal(found.values, np.array(expected, dtype=np.float32))
    assert [row.id for row in found.records] == ["r0", "r1", "r2", "r4"]
    expected_counts = {"same_image": 0, "not_labelled": 2, "empty_cells": 1, "without_any_class": 1}
    assert found.counts == {**expected_counts, "other_names": {"c": 1}}
    assert found.per_class()["a"] == {"positive": 2, "negative": 1, "unknown": 1}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("labels", [("kept",), ("kept",), ("kept",)]),
        ("text", [("edema", "opacity"), (), ()]),
        ({"dense": ["opacity", "consolidation"]}, [("dense",), (), ()]),
    ],
)
def test_labels_of_texts(
    source: Literal["labels", "text"] | dict[str, list[str]], expected: list[tuple[str, ...]]
) -> None:
    """A denied finding is absent, an empty text is not annotated, `labels_unknown` is of the other labels."""
    texts = ("Left opacification and oedema, no effusion.", "No consolidation.", " ")
    rows = [replace(row, text=text) for row, text in zip(records("kept/a", "kept", "kept"), texts, strict=True)]
    found = with_labels(rows, ClassifyConfig(labels_from=source))
    assert [row.labels for row in found] == expected
    assert [row.labels_absent for row in found] == [False, source != "labels", False]
    assert bool(found[0].extra) == (source == "labels")


def test_an_empty_cell_is_not_annotated_and_none_is_absent(tmp_path: Path) -> None:
    rows = records("", "none", "a")
    found = class_labels(rows, ("a",), ClassifyConfig())
    assert [row.id for row in found.records] == ["r1", "r2"] and found.values.ravel().tolist() == [0, 1]
    Image.new("L", (4, 4), 9).save(tmp_path / "i.png")
    (tmp_path / "m.csv").write_text("id,image,labels\nx,i.png,\ny,i.png,none\nz,i.png,a|b\n")
    cells = [(row.labels, row.labels_absent) for row in load_manifest(tmp_path / "m.csv").records]
    assert cells == [((), False), ((), True), (("a", "b"), False)]
    (tmp_path / "m.csv").write_text("id,image,labels\nx,i.png,none|a\n")
    with refused("conflict"):
        load_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("name", ["No Finding", "normal", "NO_FINDINGS", "Healthy"])
def test_a_label_that_says_there_is_none_is_no_class_unless_it_is_listed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = records(name, "a", name)
    assert find_classes(rows, ClassifyConfig()) == ("a",)
    assert name in capsys.readouterr().err
    labels = class_labels(rows, ("a",), ClassifyConfig())
    assert labels.values.ravel().tolist() == [0, 1, 0] and labels.counts["other_names"] == {}
    assert find_classes(rows, ClassifyConfig(classes=[name, "a"])) == (name, "a")
    assert find_classes(rows, ClassifyConfig(labels="multiclass")) == tuple(sorted((name, "a")))


def test_classes_that_differ_in_their_spelling_alone_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_classes(records("Lung nodule", "lung_nodule", "mass"), ClassifyConfig()) == (
        "Lung nodule", "lung_nodule", "mass",
    )  # fmt: skip
    assert "'Lung nodule' and 'lung_nodule'" in capsys.readouterr().err
    find_classes(records("nodule", "nodules", "mass"), ClassifyConfig())
    assert "spelling" not in capsys.readouterr().err


def test_a_negative_name_is_no_class() -> None:
    rows = records("No Finding", "a", "No Finding")
    config = ClassifyConfig(negative_names=["No Finding"])
    assert find_classes(rows, config) == ("a",)
    assert class_labels(rows, ("a",), config).values.ravel().tolist() == [0, 1, 0]
    assert class_labels(rows, ("a",), config).counts["other_names"] == {}
    with refused("conflict", naming="r0"):
        class_labels(records("No Finding|a"), ("a",), config)


def test_records_of_one_image_count_once_and_must_agree() -> None:
    rows = records("a//x.png", "a//x.png", "none//y.png")
    found = class_labels(rows, ("a",), ClassifyConfig())
    assert [row.id for row in found.records] == ["r0", "r2"] and found.counts["same_image"] == 1
    with refused("mismatch", naming="m.csv:3"):
        class_labels(records("a//x.png", "b//x.png"), ("a",), ClassifyConfig(), Path("m.csv"))


def test_one_of_several_classes() -> None:
    config = ClassifyConfig(labels="multiclass")
    found = class_labels(records("a", "b", "/a|b"), ("a", "b"), config)
    assert found.values.tolist() == [[1, 0], [0, 1]] and found.counts["not_labelled"] == 1
    for row, name in (("a|b", "2"), ("none", "0"), ("z", "z")):
        with refused("malformed", record="r0", naming=name):
            class_labels(records(row), ("a", "b"), config)


@pytest.mark.parametrize(
    ("rows", "config", "kind"),
    [
        (["", ""], {}, "empty"), (["Edema"], {"classes": ["Oedema"]}, "unknown"),
        (["a|n"], {"negative_names": ["m"]}, "unknown"),
        (["a|n"], {"classes": ["a", "n"], "negative_names": ["n"]}, "conflict"),
        (["n"], {"negative_names": ["n"]}, "empty"), (["a|b"], {"classes": ["a", "a"]}, "duplicate"),
        (["a"], {"labels": "multiclass"}, "empty"),
        (["a|b|n"], {"labels": "multiclass", "negative_names": ["n"]}, "conflict"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_classes_is_said(rows: list[str], config: dict[str, Any], kind: str) -> None:
    with refused(kind):
        find_classes(records(*rows), ClassifyConfig(**config))


def test_a_name_cannot_be_there_and_unknown_and_many_faults_are_cut() -> None:
    with refused("conflict", naming="labels_unknown") as caught:
        class_labels(records(*["a/a"] * 30), ("a",), ClassifyConfig())
    assert len(caught.value.faults) == 21 and "10 more" in str(caught.value)


def test_fractions_are_nested_by_patient() -> None:
    labels = class_labels(records(*["a", "none"] * 100), ("a",), ClassifyConfig())

    def part(fraction: float, **keys: object) -> set[str]:
        config: Config = make_config({"task": "classify", "data": {"label_fraction": fraction, **keys}})
        taken, counts = labelled_part(labels, config)
        assert counts["labelled_images"] == len(taken.records) == len(taken.values)
        assert counts["labelled_images"] + counts["left_out_images"] == 200
        rows = {row.id: value for row, value in zip(labels.records, labels.values, strict=True)}
        for row, value in zip(taken.records, taken.values, strict=True):
            assert value == rows[row.id]
        return {row.patient for row in taken.records}

    one, ten, all_of_them = part(0.01), part(0.1), part(1.0)
    assert one < ten < all_of_them and (len(one), len(ten), len(all_of_them)) == (2, 20, 200)
    assert part(0.1, label_seed=1) != ten


def test_samples_hold_the_labels_and_only_training_is_augmented(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["id,image,text,labels,labels_unknown,patient,mask"]
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (40, 32), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"r{i},{i}.png,the left lung,{'a' if i else 'none'},{'b' if i == 2 else ''},p{i},none")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    rows = load_manifest(tmp_path / "m.csv").records
    labels = class_labels(rows, ("a", "b"), ClassifyConfig())
    data = DataConfig(image_size=(32, 32), in_channels=1)  # a text names a side: laterality is not asked for
    plain, moved = (ClassDataset(labels, data, seed=0, train=train) for train in (False, True))
    batch = collate([plain[i] for i in range(3)])
    np.testing.assert_array_equal(batch.target.flatten(1).numpy(), labels.values)
    assert batch.ids == ("r0", "r1", "r2") and batch.texts == ("", "", "") and batch.image.shape == (3, 1, 32, 32)
    assert np.array_equal(plain[(0, 1)].image, plain[(5, 1)].image)
    assert not np.array_equal(moved[(0, 1)].image, moved[(1, 1)].image)
    assert np.array_equal(moved[(1, 1)].image, moved[(1, 1)].image)

    features = FeatureDataset(plain, np.arange(12, dtype=np.float32).reshape(3, 4))
    again = collate([features[(0, i)] for i in (2, 0)])
    assert again.ids == ("r2", "r0") and again.image[:, 0, 0, 0].tolist() == [8, 0]
    assert again.image.shape == (2, 4, 1, 1) and np.isnan(again.target[0, 1, 0, 0])
    with pytest.raises(ValueError, match="features of 2"):
        FeatureDataset(plain, np.zeros((2, 4), dtype=np.float32))
