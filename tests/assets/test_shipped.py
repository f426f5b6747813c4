"""What ships: the set does what its README promises, the model what its card promises."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import refused
from PIL import Image
from runs import logged

import medvl
from medvl.config import load_config
from medvl.data.images import read_image
from medvl.data.importers.region_phrases import CLASSES
from medvl.data.masks import read_labels
from medvl.data.packed import open_file
from medvl.data.packing import pack_manifests, unpack
from medvl.data.record import Manifest
from medvl.data.records import load_manifest, write_manifest
from medvl.data.tables import read_table
from medvl.evaluation.case_metrics import METRICS
from medvl.evaluation.cases import relative_image
from medvl.evaluation.model_inputs import Inputs, open_inputs
from medvl.inference.model_folder import find_model, load_model, times_test_opened
from medvl.tasks.segment.evaluate import evaluate
from medvl.train.run import train

SET_FOLDER = Path(medvl.__file__).parent / "assets" / "cxr_regions"
SPLITS = {"train": (337, 283), "val": (73, 61), "test": (137, 105)}


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return load_manifest("medvl:cxr_regions", need_text=True)


@pytest.fixture(scope="module")
def maps(manifest: Manifest) -> dict[Path, np.ndarray]:
    paths = {record.masks["mask"].path for record in manifest.records}
    return {path: np.asarray(Image.open(open_file(path))) for path in paths}


def test_splits_and_their_counts_in_the_readme(manifest: Manifest) -> None:
    splits: dict[str, set[str | None]] = defaultdict(set)
    for record in manifest.records:
        splits[record.patient].add(record.split)
    assert not manifest.warnings and all(len(names) == 1 for names in splits.values())
    text = (SET_FOLDER / "README.md").read_text()
    for name, counts in SPLITS.items():
        rows = manifest.split(name)
        assert (len({row.image for row in rows}), len({row.patient for row in rows})) == counts
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
    plain = {("seen", row.extra["kind"]) for row in manifest.records} - {("seen", "heldout")}
    for name in ("val", "test"):  # a seen wording stands in train, unless its union is held out
        seen = {row.text for row in manifest.split(name) if (row.extra["wording"], row.extra["kind"]) in plain}
        assert seen <= texts["train"]
    words = {name: {word for text in texts[name] for word in re.findall(r"\w+|[^\w\s]", text)} for name in SPLITS}
    assert words["val"] <= words["train"] and words["test"] <= words["train"]


def test_held_out_unions(manifest: Manifest) -> None:
    unions: dict[tuple[str, bool], set[frozenset[int]]] = defaultdict(set)
    for row in manifest.records:
        unions[row.split, row.extra["kind"] == "heldout"].add(frozenset(row.masks["mask"].values))
    trained = unions["train", False] | unions["train", True]
    for name in ("val", "test"):
        assert len(unions[name, True]) == 8 and not unions[name, True] & trained and unions[name, False] <= trained
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
    texts: dict[str, list[str]] = defaultdict(list)
    for row in manifest.split("train"):
        texts[row.extra["region"]].append(row.text)
    assert all(len(set(found)) >= 10 and len(found) >= 50 for found in texts.values())


def test_text_and_values_agree(manifest: Manifest) -> None:
    """Read the phrases by their plain words: sides and zones named are those of the mask."""
    zone_words = {"upper": 0, "superior": 0, "middle": 1, "mid": 1, "lower": 2, "inferior": 2}
    meaning: dict[str, frozenset[int]] = {}
    for record in manifest.records:
        values = frozenset(record.masks["mask"].values)
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
            for row in rows:
                zone = min(int((row + 0.5 - rows[0]) / (rows[-1] + 1 - rows[0]) * 3), 2)
                assert set(np.unique(values[row][lung[row]])) == {first + zone}, path
    for record in manifest.records:
        assert record.masks["mask"].path.stem == record.image.stem == record.id.split("_")[0]


def test_fixed_classes() -> None:
    classes = json.loads((SET_FOLDER / "classes.json").read_text())
    assert classes == {name: [value] for name, value in CLASSES.items()}
    found = load_manifest("medvl:cxr_regions/manifest_labels.csv", classes=classes)
    assert len(found.records) == 547 and found.classes == tuple(classes)
    kinds = {"normal", "bacterial pneumonia", "viral pneumonia"}
    assert {record.labels for record in found.records} == {(kind,) for kind in kinds}


def test_size(manifest: Manifest) -> None:
    size = sum(path.stat().st_size for path in SET_FOLDER.rglob("*") if path.is_file())
    assert size <= 12 * 2**20 and {path.suffix for path in SET_FOLDER.iterdir()} == {".md", ".json", ".tar"}
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
    rows = {row["image"]: row for _, row in read_table(folder / "manifest.csv").rows}  # one of each image
    train_rows, val_rows = ([row for row in rows.values() if row["split"] == split] for split in ("train", "val"))
    write_manifest(folder / "few.csv", train_rows[:10] + val_rows[:10])
    pack_manifests([folder / "few.csv"], tmp_path / "few.tar")
    results = []
    for manifest in (tmp_path / "few.tar", folder / "few.csv"):
        recipe = tmp_path / f"{manifest.suffix[1:]}.yaml"
        recipe.write_text(
            f"data: {{manifest: '{manifest}', laterality: patient, image_size: [32, 32], in_channels: 1, "
            "num_workers: 2}\n"
            "text: {dim: 32}\nmodel: {size: nano}\n"
            "train: {max_steps: 5, batch_size: 4, warmup_steps: 1, accelerator: cpu}\n"
        )
        run = train(load_config(recipe), tmp_path / recipe.stem)
        inputs = open_inputs(str(run))
        evaluate(inputs.source, inputs.manifest(None), split="val", surface=False, num_draws=1, out=run / "scored")
        losses = [row["loss"] for row in logged(run) if "loss" in row]
        files = [(run / name).read_bytes() for name in ("model/model.safetensors", "scored/cases.csv")]
        results.append((losses, files))
    assert results[0] == results[1] and losses


@pytest.mark.shared
def test_maps_are_those_of_the_source(shared_data: Path, maps: dict[Path, np.ndarray]) -> None:
    """The shrunk lungs lie where the annotators drew them."""
    source = load_manifest(shared_data / "cxr-lung-paed" / "manifest.csv")
    for record in source.records[::9]:
        values = maps[SET_FOLDER / "cxr_regions.tar" / "maps" / f"{record.id.split('-')[0]}.png"]
        mask = np.asarray(Image.open(record.masks["mask"].path)) > 0
        grown = np.asarray(Image.fromarray(values).resize(mask.shape[::-1], Image.Resampling.NEAREST)) > 0
        assert 2 * (grown & mask).sum() / (grown.sum() + mask.sum()) > 0.985
        assert abs((values > 0).mean() / mask.mean() - 1) < 0.015  # pixels half covered count as lung


# --- the model: it is what its card says, re-evaluated on the test split, to 1e-3


MODEL = "medvl:lvit_regions"
MODEL_FOLDER = find_model(MODEL)
CARD = json.loads((MODEL_FOLDER / "card.json").read_text(encoding="utf-8"))


def test_it_is_small_whole_and_of_the_shipped_set() -> None:
    names = {path.name for path in MODEL_FOLDER.iterdir()}
    assert {"model.safetensors", "config.yaml", "card.json", "card.md", "metrics.jsonl", "test_log.jsonl"} <= names
    assert sum(path.stat().st_size for path in MODEL_FOLDER.rglob("*") if path.is_file()) < 25 * 2**20
    manifest = load_manifest("medvl:cxr_regions", check_files=False)
    assert CARD["manifest_hash"] == manifest.content_hash() and CARD["split_hash"] == manifest.split_hash()
    assert CARD["command"] == "medvl train recipes/lvit_regions.yaml --out runs/lvit_regions"
    assert times_test_opened(MODEL_FOLDER) == 1


def test_it_meets_its_card_on_a_quarter_of_test() -> None:
    """Every fourth test image, whose means the card holds; `make soak` does all of them."""
    images = set(CARD["check"]["images"])
    assert len(images) == 35
    inputs = open_inputs(MODEL)
    manifest = inputs.manifest(None)
    kept = tuple(r for r in manifest.split("test") if relative_image(r, manifest) in images)
    check(inputs, replace(manifest, records=kept), CARD["check"]["metrics"])


@pytest.mark.soak
def test_it_meets_its_card_on_test() -> None:
    inputs = open_inputs(MODEL)
    check(inputs, inputs.manifest(None), CARD["metrics"]["test"])


def check(inputs: Inputs, manifest: Manifest, promised: dict[str, Any]) -> None:
    found = evaluate(inputs.source, manifest, split="test", surface=False, num_draws=1).summary
    assert found["num_cases"] == promised["num_cases"]
    for name in METRICS[:4]:
        assert found["metrics"][name]["mean"] == pytest.approx(promised[name], abs=1e-3), name
    assert times_test_opened(MODEL_FOLDER) == 1  # a check of what is known already is no new look


def test_the_readme_example(tmp_path: Path) -> None:
    image = load_manifest("medvl:cxr_regions", check_files=False).split("val")[0].image
    predictor = medvl.Predictor.load(MODEL).set_image(image)
    right, left, nothing = predictor.segment_many(["right lung", "left lung", ""])
    half = right.mask.shape[1] // 2
    assert right.mask[:, :half].sum() > 20 * right.mask[:, half:].sum()  # the patient's right is on the picture's left
    assert left.mask[:, half:].sum() > 20 * left.mask[:, :half].sum()
    assert nothing.mask.mean() < 0.01 and any("empty" in note for note in nothing.warnings)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("model.safetensors", None, "missing_file"), ("model.safetensors", b"", "damaged"),
        ("model.safetensors", "half", "damaged"), ("text/encoder.safetensors", None, "damaged"),
        ("text/encoder.safetensors", "half", "damaged"), ("text/encoder.json", "half", "damaged"),
        ("card.json", None, "missing_file"), ("card.json", "half", "damaged"), ("card.json", b"[]", "damaged"),
        ("card.json", b"{}", "damaged"), ("card.json", b"\xff", "damaged"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_a_model_is_named(name: str, content: bytes | str | None, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL_FOLDER, folder)
    whole = (folder / name).read_bytes()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    with refused(kind, file=folder / ("text" if name.startswith("text") else name), naming="copy the whole model"):
        load_model(folder)
