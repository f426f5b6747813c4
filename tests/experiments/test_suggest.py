"""Suggestions: no mask is read, scores are what they are called, choices are unlike each other and the labelled."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import refused
from runs import medvl

from medvl.config import load_config
from medvl.data.labels import labelled_from, labelled_patients
from medvl.data.records import load_manifest
from medvl.experiments.suggest import COLUMNS, _pooled, band_entropy, binary_entropy, choose, mixed_rank, suggest
from medvl.inference.predictor import Predictor
from medvl.losses.pseudo_labels import PseudoLabelStore
from medvl.train.run import train

SHORT = ["data.label_fraction=0.4", "train.max_steps=8", "train.steps_per_epoch=4"]


@pytest.fixture(scope="module")
def run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A semi-supervised run on a copy of the phantom set: 3 patients labelled, 5 hidden."""
    folder = Path(shutil.copytree(tiny_recipe.parent, tmp_path_factory.mktemp("suggest") / "data"))
    return train(load_config(folder / "recipe.yaml", [*SHORT, "semi.epi=labels"]), folder.parent / "run")


@pytest.fixture(scope="module")
def plain(run: Path) -> Path:
    """A supervised run of a model without text on the same set."""
    options = ["text.encoder=none", "model.name=unet", "model.options={}"]
    return train(load_config(run.parent / "data/recipe.yaml", [*SHORT, *options]), run.parent / "plain")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_candidates_are_what_the_run_did_not_see(run: Path, tmp_path: Path) -> None:
    records = load_manifest(run.parent / "data/manifest.csv").split("train")
    labelled = labelled_patients(records, 0.4, 0)
    rows = suggest(run, 5, out=tmp_path / "new/s.csv")
    assert {row["patient"] for row in rows} == {r.patient for r in records} - labelled and len(rows) == 5
    assert [row["order"] for row in rows] == [1, 2, 3, 4, 5]
    written = read(tmp_path / "new/s.csv")
    assert tuple(written[0]) == COLUMNS
    by_id = {r.id: r for r in records}
    for row in written:
        own = [by_id[ident] for ident in row["ids"].split("|")]
        assert len(own) == 2 and {r.patient for r in own} == {row["patient"]}
        assert {(run.parent / "data" / row["image"]).resolve()} == {r.image.resolve() for r in own}
        assert all(np.isfinite(float(row[name])) for name in COLUMNS[4:])
        assert float(row["epi"]) == pytest.approx(float(row["disagreement"]) + float(row["label_entropy"]), abs=1e-5)
    assert labelled_from(tmp_path / "new/s.csv", records) == {row["patient"] for row in rows}


def test_no_mask_is_opened(run: Path, tmp_path: Path) -> None:
    before = suggest(run, 4)
    masks = sorted((run.parent / "data").glob("m*.png"))
    kept = {path: path.read_bytes() for path in masks}
    assert len(kept) == 16
    try:
        for path in masks:
            path.write_bytes(b"no picture")
        assert suggest(run, 4) == before
        for path in masks:
            path.unlink()
        assert suggest(run, 4) == before
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    labels = np.load(run / "semi/pseudo_labels/labels.npy")
    visits = (run / "semi/pseudo_labels/visits.npy").read_bytes()
    suggest(run, 4)
    assert np.array_equal(labels, np.load(run / "semi/pseudo_labels/labels.npy"))  # nor is the store written
    assert visits == (run / "semi/pseudo_labels/visits.npy").read_bytes()


def test_the_parts_by_hand(run: Path) -> None:
    """Against the predictor, an implementation of its own, on the model's grid."""
    rows = suggest(run, 5)
    predictor = Predictor.load(run)
    store = PseudoLabelStore(run / "semi/pseudo_labels")
    texts = {r.id: r.text for r in load_manifest(run.parent / "data/manifest.csv").records}
    for row in rows:
        predictor.set_image(run.parent / "data" / row["image"])
        ids = row["ids"].split("|")
        probs = predictor._probs([texts[ident] for ident in ids])
        labels = np.stack([store.read(ident) for ident in ids])
        assert all(store.visits(ident) for ident in ids)
        assert row["disagreement"] == pytest.approx(np.abs(labels - probs).mean(), abs=1e-5)
        p = labels.astype(np.float64).clip(1e-9, 1 - 1e-9)
        entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
        assert row["label_entropy"] == pytest.approx(entropy.mean(), abs=1e-4)
        assert row["entropy"] == pytest.approx(np.mean([band_entropy(one[0]) for one in probs]), abs=1e-5)


def test_band_entropy() -> None:
    y, x = np.mgrid[:60, :60]
    distance = np.hypot(y - 30, x - 30)
    sharp, soft = (1 / (1 + np.exp((distance - 14.7) / width)) for width in (0.1, 3.0))
    large = 1 / (1 + np.exp((distance - 25) / 3.0))
    one = band_entropy(soft.astype(np.float32))
    assert band_entropy(sharp.astype(np.float32)) < 0.3 < 0.9 < one <= 1
    assert band_entropy(large.astype(np.float32)) == pytest.approx(one, abs=0.02)  # whatever the size
    flat = np.full((60, 60), 1e-4, np.float32)
    almost = np.where(distance < 10, 0.4, 1e-4).astype(np.float32)
    assert band_entropy(flat) < 0.01 < 0.2 < band_entropy(almost)  # confident absence, and what was almost found
    assert band_entropy(np.full((60, 60), 0.6, np.float32)) == pytest.approx(0.971, abs=1e-3)  # no outline at all
    assert binary_entropy(np.array([0, 0.5, 1], np.float32)) == pytest.approx([0, 1, 0], abs=1e-6)


def test_mixed_rank_passes_over_what_is_not_known() -> None:
    first, second = np.array([0.1, 0.3, 0.2, np.nan]), np.array([5.0, 5.0, 1.0, 9.0])
    assert mixed_rank([first, second]) == pytest.approx([(1 / 3 + 5 / 8) / 2, (1 + 5 / 8) / 2, (2 / 3 + 1 / 4) / 2, 1])


def test_no_near_duplicates_are_chosen() -> None:
    rng = np.random.default_rng(0)
    clusters = np.eye(4, 8, dtype=np.float32)
    features = np.repeat(clusters, 5, axis=0) + rng.normal(0, 1e-3, (20, 8)).astype(np.float32)
    uncertainty = np.linspace(0.05, 1, 20)  # the last cluster is the least certain
    alone = choose(uncertainty, features, np.zeros((0, 8), np.float32), 4, diversity=0)
    assert [index for index, *_ in alone] == [19, 18, 17, 16]
    mixed = choose(uncertainty, features, np.zeros((0, 8), np.float32), 4, diversity=1)
    assert [index for index, *_ in mixed] == [19, 14, 9, 4]
    labelled = choose(uncertainty, features, clusters[3:], 3, diversity=1)
    assert [index for index, *_ in labelled] == [14, 9, 4]  # what is labelled is a centre already
    same = choose(np.array([0.5, 0.9, 0.5]), np.ones((3, 2), np.float32), np.zeros((0, 2), np.float32), 3, 1)
    assert [index for index, *_ in same] == [1, 0, 2]


def test_by_image_and_by_patient(run: Path, tmp_path: Path) -> None:
    """Two images of a patient are one case by patient and two by image."""
    folder = Path(shutil.copytree(run.parent, tmp_path / "copy"))
    path = folder / "data/manifest.csv"
    records = load_manifest(path).split("train")
    hidden = sorted({r.patient for r in records} - labelled_patients(records, 0.4, 0))
    config = (folder / "run/model/config.yaml").read_text().replace(str(run.parent / "data"), str(folder / "data"))
    lines = path.read_text().replace(f",{hidden[1]},", f",{hidden[0]},")
    fraction = "label_fraction: 0.44"  # of 7 patients three are labelled still
    (folder / "run/model/config.yaml").write_text(config.replace("label_fraction: 0.4", fraction))
    path.write_text(lines)
    by_patient, by_image = suggest(folder / "run", 4), suggest(folder / "run", 5, by="image")
    assert len(by_patient) == len(by_image) == 5
    assert sorted({row["order"] for row in by_patient}) == [1, 2, 3, 4]
    pair = [row for row in by_patient if row["patient"] == hidden[0]]
    assert len(pair) == 2 and pair[0]["score"] == pair[1]["score"] and pair[0]["entropy"] != pair[1]["entropy"]
    assert [row["order"] for row in by_image] == [1, 2, 3, 4, 5]


def test_a_run_without_pseudo_labels_or_text(plain: Path) -> None:
    rows = suggest(plain, 3)
    assert all(row["epi"] is None and row["disagreement"] is None for row in rows)
    assert all(0 < row["entropy"] <= 1 and 0 < row["uncertainty"] <= 1 for row in rows)


def test_few_channels_are_pooled_to_cells() -> None:
    assert _pooled((torch.rand(1, 64, 4, 4),)).shape == (64,)
    vector = _pooled((torch.rand(1, 1, 48, 40),))
    assert vector.shape == (64,) and np.linalg.norm(vector) == pytest.approx(1)


def test_bad_input_is_one_error(run: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    for kind, model, num, options in (
        ("out_of_range", run, 6, {}), ("out_of_range", run, 0, {}), ("out_of_range", run, 1, {"diversity": -1}),
        ("missing_file", tmp_path / "nowhere", 1, {}), ("out_of_range", "medvl:lvit_regions", 1, {}),
    ):  # fmt: skip
        with refused(kind):
            suggest(model, num, **options)
    records = load_manifest(tiny_recipe.parent / "manifest.csv").split("train")
    for text, kinds in (
        ("order,image\n1,a.png\n", ["missing_column"]),
        ("patient\n", ["empty"]),
        ("patient,n\np0,1\n,2\nPatient 99,3\np12,4\n", ["missing", "unknown"]),
    ):
        (tmp_path / "table.csv").write_text(text)
        with refused(*kinds, file=tmp_path / "table.csv"):
            labelled_from(tmp_path / "table.csv", records)


def test_the_command_line(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "suggestions.csv"
    done = medvl("x", "suggest", run, "--num", 3, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["suggestions"]
    assert rows == suggest(run, 3) and [row["patient"] for row in read(out)] == [row["patient"] for row in rows]
    random = [[row["patient"] for row in suggest(run, 3, random=seed)] for seed in (0, 0, 1, 2, 3)]
    assert random[0] == random[1] and len({tuple(one) for one in random}) > 1
    assert all(len(set(one)) == 3 for one in random) and suggest(run, 1, random=0)[0]["score"] is None
