"""Comparing methods: what may be compared, how seeds are grouped, every number by hand."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from faults import refused
from runs import medvl

from medvl.config import config_dict, load_config, make_config, save_config
from medvl.data.record import Manifest
from medvl.data.records import load_manifest
from medvl.evaluation.case_metrics import OVERLAP
from medvl.evaluation.compare import compare
from medvl.evaluation.comparison_tables import as_text
from medvl.evaluation.prediction_sources import FolderSource
from medvl.tasks.segment import kinds as segment_kinds
from medvl.tasks.segment.evaluate import evaluate
from medvl.train.run import train

from .conftest import Deaf, Listener, lung, write_rows
from .test_report import whole_page

Write = Callable[..., str]


class Model(Listener):
    """Right on the patients of `good`, both lungs for the others; with a configuration as a trained model has."""

    def __init__(self, good: str = "", **keys: Any) -> None:
        self.good, self.keys = good, keys
        self.patient = ""

    def probs(self, records: Any, texts: Any) -> list[dict[str, Any]]:
        """True masks of the good patients, the union for the others."""
        answers = [
            text if record.patient in self.good else "both lungs" for record, text in zip(records, texts, strict=True)
        ]
        return [{"mask": np.where(lung(answer), 0.9, 0.1).astype(np.float32)} for answer in answers]

    def describe(self) -> dict[str, Any]:
        """Named after its settings."""
        tree: dict[str, Any] = {"data": {"laterality": "patient"}}
        for key, value in self.keys.items():
            section, _, leaf = key.rpartition("__")
            (tree.setdefault(section, {}) if section else tree)[leaf] = value
        return {"model": "m", "kind": "model", "seed": 0, "config": config_dict(make_config(tree)), "model_hash": "ab"}


@pytest.fixture
def write(phrases: Manifest, tmp_path: Path) -> Write:
    """Write an evaluation folder of a source and give its path."""

    def build(name: str, source: Any, manifest: Manifest = phrases, **options: Any) -> str:
        evaluate(source, manifest, out=tmp_path / name, **{"split": "val", "surface": False, **options})
        return str(tmp_path / name)

    return build


def method(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in result["methods"] if one["name"] == name)


def edit(folder: str, **changes: Any) -> str:
    """Change keys of a summary.json."""
    path = Path(folder) / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


# Both lungs for one lung is Dice 2/3 and IoU 1/2. Each patient has a right, a left and a "both" case of equal sizes:
# a patient that is not `good` has mean Dice (2/3 + 2/3 + 1) / 3 = 7/9; its pixels pooled 2 * 4 / (4 + 6) = 0.8.
BAD, BAD_IOU = 7 / 9, 2 / 3


def test_the_numbers_by_hand(write: Write) -> None:
    runs = [write("base", Model("", train__lr=1.0))]
    runs += [write("s0", Model("p0 p1", train__seed=0)), write("s1", Model("p0 p1 p2 p3", train__seed=1))]
    result = compare(runs, num_draws=500)
    assert [one["name"] for one in result["methods"]] == ["lr=1.0", "lr=0.001"]
    assert (result["reference"], result["num_cases"], result["num_patients"]) == ("lr=1.0", 12, 4)
    ours = method(result, "lr=0.001")
    assert (ours["num_seeds"], ours["seeds"], ours["runs"]) == (2, ["0", "1"], runs[1:])
    image, pooled = ours["metrics"]["dice_per_image"], ours["metrics"]["dice_pooled"]
    assert image["by_seed"] == pytest.approx([(1 + BAD) / 2, 1.0])
    assert image["mean"] == pytest.approx((3 + BAD) / 4)
    assert image["sd"] == pytest.approx((1 - (1 + BAD) / 2) / math.sqrt(2))
    # Seed 0: two patients right (4 of 4 pixels) and two not (4 of 6 predicted): 2 * 16 / (16 + 20) = 8/9.
    assert pooled["by_seed"] == pytest.approx([8 / 9, 1.0]) and pooled["mean"] == pytest.approx(17 / 18)
    assert pooled["difference"]["mean"] == pytest.approx(17 / 18 - 0.8)
    assert ours["metrics"]["iou_per_image"]["mean"] == pytest.approx((3 + BAD_IOU) / 4)
    assert ours["metrics"]["iou_pooled"]["by_seed"] == pytest.approx([16 / 20, 1.0])
    # Per patient the seeds' mean differences are 2/9, 2/9, 1/9, 1/9: all of one sign, hence 2 of 16 patterns.
    change = image["difference"]
    # Drawn are patients and seeds: with seed 0 twice the difference is 0 where only the patients that it misses are in.
    assert change["mean"] == pytest.approx(1 / 6) and 0 <= change["lo"] < 1 / 9 < change["hi"] <= 2 / 9 + 1e-9
    assert ours["interval_over"] == "patients and seeds" and method(result, "lr=1.0")["interval_over"] == "patients"
    assert ours["difference_over"] == "patients, and the seeds of each method apart"
    assert result["bootstrap"]["unit"] == "patient and seed"
    said = "\n".join(result["notes"])
    assert "over patients and seeds (two-level bootstrap" in said and "drawn apart in the difference: lr=0.001" in said
    assert "2 seeds are few" in said
    assert image["p"] == pooled["p"] == 2 / 16
    assert image["p_holm"] == pooled["p_holm"] == 4 / 16  # a family of two
    base = method(result, "lr=1.0")["metrics"]["dice_per_image"]
    assert base["sd"] is base["difference"] is base["p"] is None
    assert base["mean"] == pytest.approx(BAD) and base["lo"] == pytest.approx(base["hi"])
    assert result["test"]["exact"] and result["test"]["permutations"] == 16
    assert any("one run only" in note and "lr=1.0" in note for note in result["notes"])
    assert any("p cannot be below 0.125" in note for note in result["notes"])


def test_methods_of_the_same_seeds_are_paired_in_them(write: Write) -> None:
    """Seed 1 is right on more patients than seed 0 under both methods, and the second method on one more under both."""
    good = {0: ("p0", "p0 p1"), 1: ("p0 p1 p2", "p0 p1 p2 p3")}
    runs = {
        (seed, i): write(f"m{i}-seed{seed}", Model(names, train__seed=seed, train__lr=1.0 + i))
        for seed, both in good.items()
        for i, names in enumerate(both)
    }
    order = [runs[0, 0], runs[1, 0], runs[1, 1], runs[0, 1]]
    result = compare(order, names=["one", "two"])
    two = method(result, "two")
    assert two["seeds"] == ["1", "0"] and two["difference_over"] == "patients and seeds"
    assert not any("apart" in note for note in result["notes"])
    change = two["metrics"]["dice_per_image"]["difference"]
    assert change["mean"] == pytest.approx((1 - BAD) / 4)
    # Each seed's gain is one patient's 2/9, so that a draw that took other seeds for the two methods could be below 0.
    assert change["lo"] == pytest.approx(0) and change["hi"] <= 2 / 9 + 1e-9
    single = compare([runs[0, 0], runs[0, 1]], names=["one", "two"])
    assert single["bootstrap"]["unit"] == "patient" and method(single, "two")["difference_over"] == "patients"
    assert "intervals and tests are over patients" in single["notes"]


def test_few_draws_of_few_labelled_patients_are_no_result(write: Write) -> None:
    pairs = [(lr, seed) for lr in (1.0, 2.0) for seed in (0, 1)]
    runs = [write(f"{lr}-seed{seed}", Model("p0", train__seed=seed, train__lr=lr)) for lr, seed in pairs]
    for run, num in zip(runs, (7, 9, 8, 8), strict=True):
        (Path(run) / "plan.json").write_text(json.dumps({"labels": {"labelled_patients": num}}))
    said = [note for note in compare(runs, names=["a", "b"])["notes"] if "no result" in note]
    assert said == ["few labelled patients and fewer than 10 draws, hence no result: a (7)"]


def test_holm_is_over_all_comparisons_and_both_conventions(write: Write) -> None:
    runs = [write("a", Model("")), write("b", Model("p0 p1 p2 p3", train__lr=1)), write("c", Model("p0", train__lr=2))]
    result = compare(runs, names=["a", "b", "c"])
    p = [method(result, name)["metrics"][m]["p"] for name in "bc" for m in ("dice_per_image", "dice_pooled")]
    adjusted = [
        method(result, name)["metrics"][m]["p_holm"] for name in "bc" for m in ("dice_per_image", "dice_pooled")
    ]
    assert p == [0.125, 0.125, 1.0, 1.0] and adjusted == [0.5, 0.5, 1.0, 1.0]
    assert result["test"]["family"] == 4


def test_the_reference_can_be_chosen(write: Write) -> None:
    runs = [write("a", Model("")), write("b", Model("p0 p1", train__lr=1))]
    result = compare(runs, names=["poor", "good"], reference="good")
    assert method(result, "poor")["metrics"]["dice_per_image"]["difference"]["mean"] == pytest.approx((BAD - 1) / 2)
    assert method(result, "good")["metrics"]["dice_per_image"]["difference"] is None
    with refused("unknown"):
        compare(runs, names=["poor", "good"], reference="god")


def test_patients_are_resampled_and_not_cases(write: Write) -> None:
    # All cases of a patient are alike in their difference: three cases are worth no more than one.
    result = compare([write("a", Model("")), write("b", Model("p0 p1", train__lr=1))], names=["a", "b"])
    change = method(result, "b")["metrics"]["dice_per_image"]["difference"]
    # With 4 patients, half of them better by 2/9, all four are of one kind in 1 of 16 draws each.
    assert (change["lo"], change["hi"]) == pytest.approx((0.0, 2 / 9))


# --- what may be compared


def test_a_missing_case_is_named(write: Write) -> None:
    runs = [write("a", Model("p0")), write("b", Model("p1", train__lr=1))]
    path = Path(runs[1]) / "cases.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith(("film1_left", "film3_both"))) + "\n")
    with refused("mismatch", naming="film1_left, film3_both") as e:
        compare(runs)
    assert str(e.value).startswith(runs[1])
    with refused("mismatch"):
        compare(runs[::-1])


@pytest.mark.parametrize(
    ("changes", "kind", "naming"),
    [
        ({"split": "test"}, "mismatch", "--split test"),
        ({"manifest_hash": "f" * 64, "manifest": "other.csv"}, "mismatch", "ffffffff of other.csv"),
        ({"split_hash": "f" * 64}, "mismatch", "split_hash"),
        ({"grid": "model"}, "mismatch", "grid"),
        ({"empty_mask": "zero"}, "mismatch", "empty_mask"),
        ({"threshold": 0.4}, "mismatch", "0.4"),
        ({"threshold_source": "val"}, "mismatch", "threshold_source"),
        ({"text": "left and right swapped"}, "mismatch", "left and right swapped"),
        ({"format": "medvl-summary/0"}, "unsupported", "medvl-summary/0"),
    ],
)
def test_what_was_scored_otherwise_is_refused(write: Write, changes: dict[str, Any], kind: str, naming: str) -> None:
    runs = [write("a", Model("p0")), edit(write("b", Model("p1", train__lr=1)), **changes)]
    with refused(kind, naming=naming):
        compare(runs)


def test_thresholds_chosen_on_val_may_differ(write: Write) -> None:
    runs = [write("a", Model("p0"), threshold_source="val", threshold=0.3)]
    runs += [write("b", Model("p1", train__lr=1), threshold_source="val", threshold=0.6)]
    assert compare(runs)["threshold"] == "each its own threshold (val)"


def test_another_true_mask_is_refused(write: Write) -> None:
    runs = [write("a", Model("p0")), write("b", Model("p1", train__lr=1))]
    path = Path(runs[1]) / "cases.csv"
    path.write_text(path.read_text().replace(",p2,", ",p9,"))
    with refused("mismatch"):
        compare(runs)


def test_cases_without_a_dice_are_refused(write: Write) -> None:
    runs = [write("a", Model("p0")), write("b", Model("p1", train__lr=1))]
    for run in runs:  # as --empty-mask skip writes a case whose two masks are empty
        path = Path(run) / "cases.csv"
        head, *rows = list(csv.reader(path.open(newline="")))
        for column, value in {"dice": "", "iou": "", "true_px": 0, "pred_px": 0, "tp_px": 0}.items():
            rows[0][head.index(column)] = str(value)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows])
    with refused("conflict"):
        compare(runs)


def test_texts_of_another_column_are_another_method_on_the_same_cases(write: Write, phrases: Manifest) -> None:
    other = load_manifest(phrases.path, text_column="kind")
    runs = [write("a", Model("p0")), write("b", Model("p1", data__text_column="kind"), other)]
    result = compare(runs)
    assert [one["name"] for one in result["methods"]] == ["text_column=text", "text_column=kind"]
    assert any("texts come from different columns" in note for note in result["notes"])
    # The same manifest hash without another column to explain it is another manifest.
    with refused("mismatch", naming="manifest_hash"):
        compare([runs[0], write("c", Model("p1", train__lr=1), other)])


def test_targets_that_cannot_be_compared(write: Write, tmp_path: Path) -> None:
    one = write("a", Model("p0"))
    with refused("empty"):
        compare([one])
    with refused("duplicate"):
        compare([one, one])
    with refused("missing_file"):
        compare([one, str(tmp_path / "nowhere")])
    (tmp_path / "pngs").mkdir()
    with refused("missing_file"):
        compare([one, str(tmp_path / "pngs")])
    (tmp_path / "started" / "checkpoints").mkdir(parents=True)
    with refused("missing_file"):
        compare([one, str(tmp_path / "started")])


# --- what is one method


def test_runs_that_differ_in_seed_draw_and_machine_are_one_method(write: Write) -> None:
    runs = [
        write("a", Model("p0", train__seed=0, data__label_seed=3, train__devices=1)),
        write("b", Model("p1", train__seed=0, data__label_seed=4, train__devices=2, data__num_workers=5)),
        write("c", Model("p1", train__seed=1, data__label_seed=3, data__label_fraction=0.5)),
    ]
    result = compare(runs)
    assert [one["name"] for one in result["methods"]] == ["label_fraction=1.0", "label_fraction=0.5"]
    assert result["methods"][0]["seeds"] == ["0 (labels 3)", "0 (labels 4)"]
    assert result["settings"] == {"data.label_fraction": ["1.0", "0.5"]}


def test_the_same_seed_twice_is_no_second_seed(write: Write) -> None:
    runs = [write("a", Model("p0", train__seed=2)), write("b", Model("p1", train__seed=2))]
    with refused("duplicate"):
        compare(runs)


def test_runs_started_from_the_seeds_of_one_method_are_one_method(write: Write, tmp_path: Path) -> None:
    for name, lr, seed in (("first-seed0", 1.0, 0), ("again-seed1", 1.0, 1), ("other-seed1", 2.0, 1)):
        (tmp_path / name).mkdir()
        save_config(make_config({"train": {"lr": lr, "seed": seed}}), tmp_path / name / "config.yaml")
    runs = [
        write("a", Model("p0", init=str(tmp_path / "first-seed0"), train__seed=0)),
        write("b", Model("p1", init=str(tmp_path / "again-seed1"), train__seed=1)),
        write("c", Model("p1", init=str(tmp_path / "other-seed1"), train__seed=1)),
    ]
    assert [(one["name"], one["num_seeds"]) for one in compare(runs)["methods"]] == [
        ("init=first", 2),
        ("init=other", 1),
    ]


def test_methods_that_differ_in_much_are_called_after_their_folders(write: Write) -> None:
    much = {"train__lr": 1.0, "train__epochs": 3, "train__batch_size": 3, "text__dim": 8, "model__size": "nano"}
    runs = [write("plain-seed0", Model("p0")), write("much-seed0", Model("p1", **much))]
    assert [one["name"] for one in compare(runs)["methods"]] == ["plain", "much"]


def test_masks_of_another_program_stand_beside_models(write: Write, phrases: Manifest, tmp_path: Path) -> None:
    folders = []
    for seed in (0, 1):
        folder = tmp_path / f"masks{seed}"
        folder.mkdir()
        for record in phrases.records:
            cv2.imwrite(str(folder / f"{record.id}.png"), lung(record.text).astype(np.uint8) * 255)
        folders.append(write(f"nnunet-seed{seed}", FolderSource(folder)))
    runs = [write("ours", Model("p0")), *folders]
    result = compare(runs)
    assert [one["name"] for one in result["methods"]] == ["ours", folders[0], folders[1]]
    assert "masks as given" in result["threshold"] and "threshold 0.5 (fixed)" in result["threshold"]
    # Given a name for each run, equal names are seeds of one method.
    named = compare(runs, names=["ours", "nnU-Net", "nnU-Net"])
    assert [(one["name"], one["num_seeds"]) for one in named["methods"]] == [("ours", 1), ("nnU-Net", 2)]
    assert method(named, "nnU-Net")["metrics"]["dice_per_image"]["mean"] == 1.0
    with refused("mismatch"):
        compare(runs, names=["x", "x", "y"])


def test_names_must_fit(write: Write) -> None:
    runs = [write(f"a{seed}", Model("p0", train__seed=seed)) for seed in (0, 1)] + [
        write("b", Model("p1", train__lr=1.0))
    ]
    assert [one["name"] for one in compare(runs, names=["one", "two"])["methods"]] == ["one", "two"]
    with refused("mismatch"):
        compare(runs, names=["one"])
    with refused("duplicate"):
        compare(runs, names=["one", "one"])
    with refused("mismatch", naming="train.lr"):
        compare(runs, names=["one", "one", "one"])


# --- pooled folds


@pytest.fixture
def folded(write: Write, phrases: Manifest) -> Callable[..., list[str]]:
    """Two folds of four patients, evaluated by a model for each: p0 and p1 are the first, p2 and p3 the second."""

    def build(name: str, good: str, first: str = "p0 p1", second: str = "p2 p3", **keys: Any) -> list[str]:
        rows = list(csv.DictReader(phrases.path.open(newline="")))
        runs = []
        for fold, val in enumerate((first, second)):
            for row in rows:
                row["split"] = "val" if row["patient"] in val else "train"
            path = write_rows(phrases.path.parent / f"fold{fold}.csv", rows)
            source = Model(good, data__manifest=str(path), **keys)
            runs.append(write(f"{name}-fold{fold}-seed{keys.get('train__seed', 0)}", source, load_manifest(path)))
        return runs

    return build


def test_folds_are_pooled_by_hand(folded: Callable[..., list[str]], tmp_path: Path) -> None:
    runs = [*folded("base", "p0"), *folded("better", "p0 p1 p3", train__lr=1.0)]
    result = compare(runs[::-1], names=["better", "base"], reference="base", folds=True, out=tmp_path / "out")
    assert (result["num_cases"], result["num_patients"]) == (12, 4) and not (tmp_path / "out" / "cases.png").exists()
    better = method(result, "better")
    assert better["num_seeds"] == 1 and better["runs"] == [" + ".join([runs[3], runs[2]])]
    image, pooled = better["metrics"]["dice_per_image"], better["metrics"]["dice_pooled"]
    assert image["mean"] == pytest.approx((3 + BAD) / 4)
    # One patient of each fold gains 2/9: of four patients drawn, none to all of them are of the two.
    assert image["difference"] == {"mean": pytest.approx(1 / 9), "lo": 0.0, "hi": pytest.approx(2 / 9), "num": 12}
    assert image["p"] == 0.5  # the two gains have one sign in half of the patterns
    # 16 of 16 pixels; the base 4 right (8 of 8) and three with 12 of 18; better 12 of 12 and 4 of 6.
    assert pooled["difference"]["mean"] == pytest.approx(2 * 16 / (16 + 18) - 2 * 16 / (16 + 22))
    assert any("cases of 2 folds pooled" in note for note in result["notes"])
    assert (tmp_path / "out" / "compare.html").is_file()
    alone = compare(runs[:2], folds=True)  # of a single method its row
    assert [one["metrics"]["dice_per_image"]["mean"] for one in alone["methods"]] == [pytest.approx((1 + 3 * BAD) / 4)]


def test_pooled_folds_have_seeds_and_must_be_folds(folded: Callable[..., list[str]], write: Write) -> None:
    base = [run for seed in (0, 1) for run in folded("base", "p0", train__seed=seed)]
    other = [run for seed in (0, 1) for run in folded("other", "p0 p2", train__lr=1.0, train__seed=seed)]
    result = compare([*base, *other], folds=True)
    assert [one["name"] for one in result["methods"]] == ["lr=0.001", "lr=1.0"]
    assert [one["seeds"] for one in result["methods"]] == [["0", "1"]] * 2
    with refused("mismatch", naming="fold0.csv"):
        compare([*base, *other[:3]], folds=True)
    with refused("empty"):
        compare([base[0], other[0]], folds=True)
    with refused("leak"):
        compare(folded("twice", "p0", second="p1 p2", train__lr=2.0), folds=True)
    split_patient = folded("leaky", "p0", train__lr=3.0)
    path = Path(split_patient[1]) / "cases.csv"
    path.write_text(path.read_text().replace(",p2,", ",p1,"))
    with refused("leak"):
        compare(split_patient, folds=True)
    with refused("mismatch", naming="0.4"):
        compare([base[0], edit(base[1], threshold=0.4)], folds=True)
    with refused("mismatch"):
        compare([base[0], edit(base[1], threshold=0.5, split="test")], folds=True)
    edit(base[1], split="val")
    with refused("unsupported"):
        compare([*base, edit(write("masks", Deaf()), config=None)], folds=True)


# --- what is written


def test_files_keep_the_conventions_apart_and_fetch_nothing(write: Write, tmp_path: Path) -> None:
    runs = [write("a", Model("p0")), write("b", Model("p0 p1", train__lr=1)), write("<c>", Deaf())]
    edit(runs[2], config=None)
    result = compare(runs, out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == result
    rows = list(csv.DictReader((tmp_path / "out" / "compare.csv").open(newline="")))
    assert [row["method"] for row in rows] == ["lr=0.001", "lr=1.0", "<c>"]
    for row, one in zip(rows, result["methods"], strict=True):
        assert [float(row[name]) for name in OVERLAP] == [one["metrics"][name]["mean"] for name in OVERLAP]
    assert [row["interval_over"] for row in rows] == ["patients"] * 3
    assert [row["difference_over"] for row in rows] == ["", "patients", "patients"]
    assert rows[0]["dice_pooled_difference"] == "" and float(rows[1]["dice_pooled_p_holm"]) == 1.0
    text, page, words = whole_page(tmp_path / "out" / "compare.html")
    assert page.fetched == [] and not page.tags & {"img", "image"}
    assert "<c>" in words and "not a medical device" in words and "Dice pooled (over all pixels of the set)" in words
    assert "right lung" not in text  # texts of the data set stay out
    table = as_text(result, tmp_path / "out")
    sections = table.split("\n\n")
    assert [line.split("(")[0].strip() for line in (part.splitlines()[0] for part in sections[1:5])] == [
        "Dice per image", "Dice pooled", "IoU per image", "IoU pooled",
    ]  # fmt: skip


# --- real runs


@pytest.fixture(scope="module")
def trained(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two seeds of one recipe."""
    folder = tmp_path_factory.mktemp("compared")
    words = ["train.max_steps=2", "train.ema_decay=0"]
    return [
        str(train(load_config(tiny_recipe, [*words, f"train.seed={seed}"]), folder / f"text-seed{seed}"))
        for seed in (0, 1)
    ]


def test_the_command_line_compares_runs(trained: list[str], tiny_manifest: Path, tmp_path: Path) -> None:
    masks = write_true_masks(tiny_manifest, tmp_path / "true")
    manifest = load_manifest(tiny_manifest)
    evaluate(FolderSource(masks), manifest, out=tmp_path / "truth")
    out = tmp_path / "out"
    words = [*trained, str(tmp_path / "truth"), "--out", str(out), "--names", "medvl", "--names", "the truth"]
    done = medvl("compare", *words, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [(one["name"], one["num_seeds"]) for one in result["methods"]] == [("medvl", 2), ("the truth", 1)]
    assert method(result, "the truth")["metrics"]["dice_pooled"]["mean"] == 1.0
    stored = [json.loads((Path(run) / "report" / "val" / "summary.json").read_text()) for run in trained]
    means = [summary["metrics"]["dice_pooled"]["mean"] for summary in stored]
    assert method(result, "medvl")["metrics"]["dice_pooled"]["by_seed"] == pytest.approx(means)
    assert sorted(path.name for path in out.iterdir()) == ["cases.png", "compare.csv", "compare.html", "compare.json"]


def test_an_evaluation_is_made_once_and_opening_test_is_logged(
    trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["first", "second"]
    # Two seeds are one method; to compare them anyway, each needs a name of its own.
    first = compare(trained, split="test", names=names)
    assert [len((Path(run) / "test_log.jsonl").read_text().splitlines()) for run in trained] == [1, 1]

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("evaluated twice")

    monkeypatch.setattr(segment_kinds, "evaluate", refuse)
    assert compare(trained, split="test", names=names)["methods"] == first["methods"]
    assert [len((Path(run) / "test_log.jsonl").read_text().splitlines()) for run in trained] == [1, 1]


def write_true_masks(manifest: Path, folder: Path) -> Path:
    folder.mkdir()
    for row in csv.DictReader(manifest.open(newline="")):
        labels = cv2.imread(str(manifest.parent / row["mask"]), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(folder / f"{row['id']}.png"), (labels == int(row["mask_values"])).astype(np.uint8) * 255)
    return folder
