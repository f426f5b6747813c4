"""The shipped set: what its README promises."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medvl
from medvl.config import load_config
from medvl.data.images import read_image
from medvl.data.importers.region_phrases import CLASSES
from medvl.data.masks import read_labels
from medvl.data.packed import open_file
from medvl.data.packing import pack_manifests, unpack
from medvl.data.record import Manifest, Record
from medvl.data.records import load_manifest, write_manifest
from medvl.data.tables import read_table
from medvl.evaluation.model_inputs import open_inputs
from medvl.tasks.segment.evaluate import evaluate
from medvl.train.run import train

FOLDER = Path(medvl.__file__).parent / "assets" / "cxr_regions"
SPLITS = {"train": (337, 283), "val": (73, 61), "test": (137, 105)}


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return load_manifest("medvl:cxr_regions", need_text=True)


@pytest.fixture(scope="module")
def maps(manifest: Manifest) -> dict[Path, np.ndarray]:
    paths = {path_of(record) for record in manifest.records}
    return {path: np.asarray(Image.open(open_file(path))) for path in paths}


def path_of(record: Record) -> Path:
    reference = record.masks["mask"]
    assert reference is not None and reference.path is not None
    return reference.path


def values_of(record: Record) -> frozenset[int]:
    reference = record.masks["mask"]
    assert reference is not None and reference.values is not None
    return frozenset(reference.values)


def test_splits(manifest: Manifest) -> None:
    patients: dict[str, set[str]] = defaultdict(set)
    for record in manifest.records:
        patients[record.patient].add(record.split or "")
    assert not manifest.warnings and all(len(splits) == 1 for splits in patients.values())
    for name, (num_images, num_patients) in SPLITS.items():
        rows = manifest.split(name)
        assert len({row.image for row in rows}) == num_images
        assert len({row.patient for row in rows}) == num_patients


def test_readme_counts(manifest: Manifest) -> None:
    text = (FOLDER / "README.md").read_text()
    for name, counts in SPLITS.items():
        rows = manifest.split(name)
        unseen = sum(row.extra["wording"] == "unseen" for row in rows)
        heldout = sum(row.extra["kind"] == "heldout" for row in rows)
        assert f"| {name} | {counts[0]} | {counts[1]} | {len(rows)} | {unseen} | {heldout} |" in text
    for part in ("CC BY 4.0", "10.17632/rscbjbr9sj.2", "v7labs", "thirds", "`patient`", "children"):
        assert part in text


def test_unseen_wordings_are_unseen(manifest: Manifest) -> None:
    texts = {name: {row.text for row in manifest.split(name)} for name in SPLITS}
    unseen = {name: {row.text for row in manifest.split(name) if row.extra["wording"] == "unseen"} for name in SPLITS}
    assert not unseen["train"] and not texts["train"] & (unseen["val"] | unseen["test"])
    assert not unseen["val"] & texts["test"] and not unseen["test"] & texts["val"]
    for name in ("val", "test"):  # a seen wording stands in train, unless its union is held out
        seen = {
            row.text
            for row in manifest.split(name)
            if row.extra["wording"] == "seen" and row.extra["kind"] != "heldout"
        }
        assert seen <= texts["train"]
    words = {name: {word for text in texts[name] for word in re.findall(r"\w+|[^\w\s]", text)} for name in SPLITS}
    assert words["val"] <= words["train"] and words["test"] <= words["train"]


def test_held_out_unions(manifest: Manifest) -> None:
    trained = {values_of(row) for row in manifest.split("train")}
    for name in ("val", "test"):
        heldout = {values_of(row) for row in manifest.split(name) if row.extra["kind"] == "heldout"}
        others = {values_of(row) for row in manifest.split(name) if row.extra["kind"] != "heldout"}
        assert len(heldout) == 8 and not heldout & trained and others <= trained
    assert len(trained) == 55


def test_rows_per_image(manifest: Manifest) -> None:
    counts = Counter(record.image for record in manifest.records)
    for record in manifest.records:
        assert counts[record.image] == (38 if record.split == "train" else 28)
    for name in ("val", "test"):
        wordings: dict[tuple[Path, str], set[str]] = defaultdict(set)
        for row in manifest.split(name):
            if row.extra["kind"] in ("zone", "lung", "both"):
                wordings[row.image, row.extra["region"]].add(row.extra["wording"])
        assert len(wordings) == 9 * SPLITS[name][0] and all(len(found) == 2 for found in wordings.values())
    regions: dict[str, set[str]] = defaultdict(set)
    often: Counter[str] = Counter()
    for row in manifest.split("train"):
        regions[row.extra["region"]].add(row.text)
        often[row.extra["region"]] += 1
    assert min(len(texts) for texts in regions.values()) >= 10 and min(often.values()) >= 50


def test_text_and_values_agree(manifest: Manifest) -> None:
    """Read the phrases by their plain words: sides and zones named are those of the mask."""
    zone_words = {"upper": 0, "superior": 0, "middle": 1, "mid": 1, "lower": 2, "inferior": 2}
    meaning: dict[str, frozenset[int]] = {}
    for record in manifest.records:
        values = values_of(record)
        assert meaning.setdefault(record.text, values) == values  # one text, one region
    for text, values in meaning.items():
        words = re.findall(r"\w+", text)
        sides = {side for side in ("right", "left") if side in words}
        if not sides or {"both", "bilateral"} & set(words):
            sides = {"right", "left"}
        assert sides == {("right", "left")[value > 3] for value in values}, text
        zones = {zone_words[word] for word in words if word in zone_words}
        if "two thirds" in text:
            zones.add(1)
        whole = {1, 2, 3} <= values or {4, 5, 6} <= values
        assert zones == {(value - 1) % 3 for value in values} or (whole and len(zones) < 3), text
        if len(zones) < 3 and len(sides) == 1:
            assert whole == (not zones), text


def test_maps_follow_the_rule(manifest: Manifest, maps: dict[Path, np.ndarray]) -> None:
    assert len(maps) == 547
    for path, values in maps.items():
        assert values.dtype == np.uint8 and set(np.unique(values)) == set(range(7)) and max(values.shape) <= 256, path
        right, left = (values >= 1) & (values <= 3), values >= 4
        assert np.nonzero(right)[1].mean() + 0.1 * values.shape[1] < np.nonzero(left)[1].mean(), path
        for first, lung in ((1, right), (4, left)):
            rows = np.flatnonzero(lung.any(axis=1))
            top, bottom = rows[0], rows[-1] + 1
            for row in rows:
                zone = min(int((row + 0.5 - top) / (bottom - top) * 3), 2)
                assert set(np.unique(values[row][lung[row]])) == {first + zone}, path
    for record in manifest.records:
        assert path_of(record).stem == record.image.stem == record.id.split("_")[0]


def test_fixed_classes() -> None:
    classes = json.loads((FOLDER / "classes.json").read_text())
    assert classes == {name: [value] for name, value in CLASSES.items()}
    found = load_manifest("medvl:cxr_regions/manifest_labels.csv", classes=classes)
    assert len(found.records) == 547 and found.classes == tuple(classes)
    assert {record.labels for record in found.records} == {
        ("normal",),
        ("bacterial pneumonia",),
        ("viral pneumonia",),
    }


def test_size(manifest: Manifest) -> None:
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert size <= 12 * 2**20 and {path.suffix for path in FOLDER.iterdir()} == {".md", ".json", ".tar"}
    for path in {record.image for record in manifest.records}:
        with Image.open(open_file(path)) as image:
            assert image.format == "JPEG" and image.mode == "L" and max(image.size) <= 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    unpack("medvl:cxr_regions", folder)
    return folder


def test_unpacked_it_is_the_same(manifest: Manifest, maps: dict[Path, np.ndarray], folder: Path) -> None:
    plain = load_manifest(folder / "manifest.csv")
    assert plain.content_hash() == manifest.content_hash() and plain.split_hash() == manifest.split_hash()
    pairs = {(mine.image, other.image) for mine, other in zip(manifest.records, plain.records, strict=True)}
    assert len(pairs) == 547
    for mine, other in pairs:
        np.testing.assert_array_equal(read_image(mine).pixels, read_image(other).pixels)
        labels = read_labels(folder / "maps" / f"{mine.stem}.png")
        np.testing.assert_array_equal(maps[mine.parents[1] / "maps" / f"{mine.stem}.png"], labels)


def test_it_trains_alike(folder: Path, tmp_path: Path) -> None:
    """The same losses and weights of 20 images, to the last bit, with workers; the same cases.csv."""
    kept: dict[str, dict[str, str]] = {}
    for _, row in read_table(folder / "manifest.csv").rows:
        same_split = [name for name in kept if kept[name]["split"] == row["split"]]
        if len(same_split) < 10 and row["split"] != "test" and row["image"] not in {r["image"] for r in kept.values()}:
            kept[row["id"]] = row
    write_manifest(folder / "few.csv", kept.values())
    pack_manifests([folder / "few.csv"], tmp_path / "few.tar")
    runs = []
    for manifest in (tmp_path / "few.tar", folder / "few.csv"):
        recipe = tmp_path / f"{manifest.suffix[1:]}.yaml"
        recipe.write_text(
            f"data: {{manifest: '{manifest}', laterality: patient, image_size: [32, 32], in_channels: 1, "
            "num_workers: 2}\n"
            "text: {dim: 32}\nmodel: {size: nano}\n"
            "train: {max_steps: 5, batch_size: 4, warmup_steps: 1, accelerator: cpu}\n"
        )
        runs.append(train(load_config(recipe), tmp_path / recipe.stem))
    losses = [[row["loss"] for row in map(json.loads, (run / "metrics.jsonl").open()) if "loss" in row] for run in runs]
    assert losses[0] == losses[1] and losses[0]
    weights = [(run / "model" / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    tables = []
    for run in runs:
        inputs = open_inputs(str(run))
        evaluate(inputs.source, inputs.manifest(None), split="val", surface=False, num_draws=1, out=run / "scored")
        tables.append((run / "scored" / "cases.csv").read_bytes())
    assert tables[0] == tables[1]


@pytest.mark.shared
def test_maps_are_those_of_the_source(shared_data: Path, maps: dict[Path, np.ndarray]) -> None:
    """The shrunk lungs lie where the annotators drew them."""
    source = load_manifest(shared_data / "cxr-lung-paed" / "manifest.csv")
    for record in source.records[::9]:
        values = maps[FOLDER / "cxr_regions.tar" / "maps" / f"{record.id.split('-')[0]}.png"]
        mask = np.asarray(Image.open(path_of(record))) > 0
        grown = np.asarray(Image.fromarray(values).resize(mask.shape[::-1], Image.Resampling.NEAREST)) > 0
        assert 2 * (grown & mask).sum() / (grown.sum() + mask.sum()) > 0.985
        assert abs((values > 0).mean() / mask.mean() - 1) < 0.015  # pixels half covered count as lung
