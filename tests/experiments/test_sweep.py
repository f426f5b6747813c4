"""Sweeps: the plan of cells, running and resuming them, what a result file may say."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults import refused
from runs import assert_same

from medvl.cli import app
from medvl.config import config_dict, load_config, save_config
from medvl.config.differences import differences, flat
from medvl.experiments.sweep import load_sweep
from medvl.experiments.sweep_run import POLL_S, as_table, run_sweep, without_machine_paths
from medvl.experiments.sweep_table import outcome
from medvl.tasks.segment.learner import SegmentLearner
from medvl.train import run as run_module

ROOT = Path(__file__).resolve().parents[2]
FAST = {"train.max_steps": 1, "train.val_every": 1}


def write(folder: Path, recipe: Path, **keys: Any) -> Path:
    """A sweep file in `folder` over a copy of the tiny recipe, which keeps its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = yaml.safe_load(recipe.read_text())
    raw["data"]["manifest"] = os.path.relpath(recipe.parent / "manifest.csv", folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw))
    sweep = {"recipe": "recipe.yaml", "variants": {"text": {}}, "overrides": FAST, **keys}
    path = folder / "sweep.yaml"
    path.write_text("# medvl x sweep sweep.yaml --out runs/tiny\n" + yaml.safe_dump(sweep, sort_keys=False))
    return path


def planned(path: Path) -> list[str]:
    return [cell.name for cell in load_sweep(path).cells()]


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any training is an error."""

    def refuse(*args: object, **kwargs: object) -> Path:
        raise AssertionError("nothing must be trained here")

    monkeypatch.setattr(run_module, "train", refuse)


# --- the plan


def test_seeds_are_outermost_and_the_last_grid_key_turns_fastest(tiny_recipe: Path, tmp_path: Path) -> None:
    grid = {"train.lr": [0.001, 0.01], "data.p_empty_text": [0.0, 0.5]}
    variants = {"attention, 4": None, "no text (TW)": {"text.encoder": "none"}}
    path = write(tmp_path, tiny_recipe, grid=grid, variants=variants, seeds={"attention, 4": 2, "no text (TW)": 1})
    names = planned(path)
    assert names[:4] == [
        "attention__4-lr_0_001-p_empty_text_0_0-seed0", "no_text__TW-lr_0_001-p_empty_text_0_0-seed0",
        "attention__4-lr_0_001-p_empty_text_0_5-seed0", "no_text__TW-lr_0_001-p_empty_text_0_5-seed0",
    ]  # fmt: skip
    assert len(names) == 12 and names[8:] == [name.replace("seed0", "seed1") for name in names[:8:2]]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text.encoder", "none"), ("text.encoder", "hf:some where: here"), ("text.encoder", "null"),
        ("data.constant_text", "no"), ("data.constant_text", None), ("train.lr", 1e-05), ("train.clip_norm", None),
        ("semi.beta_warmup", False), ("data.image_size", [64, 96]), ("data.classes", {"left": [1, 2]}),
        ("data.empty_means_absent", ["a b", "c"]),
    ],
)  # fmt: skip
def test_a_value_reaches_the_configuration_as_it_stands_in_the_sweep(
    tiny_recipe: Path, tmp_path: Path, key: str, value: Any
) -> None:
    sweep = load_sweep(write(tmp_path, tiny_recipe, variants={"v": {key: value}}))
    config: Any = config_dict(sweep.config(next(sweep.cells()), tmp_path, None))
    for part in key.split("."):
        config = config[part]
    assert config == value and type(config) is type(value)


def test_later_words_win(tiny_recipe: Path, tmp_path: Path) -> None:
    variants = {"v": {"train.lr": 3.0, "recipe": "other.yaml"}}
    path = write(tmp_path, tiny_recipe, overrides={"train.lr": 1.0, "train.epochs": 7})
    (tmp_path / "other.yaml").write_text("{train: {lr: 9, epochs: 9, warmup_steps: 9}}")
    raw = yaml.safe_load(path.read_text()) | {"variants": variants, "grid": {"train.weight_decay": [0.5]}, "seeds": 2}
    path.write_text(yaml.safe_dump(raw))
    sweep = load_sweep(path)
    config = sweep.config(list(sweep.cells())[1], tmp_path, None, ["train.epochs=5"])
    train = config.train
    assert (train.lr, train.weight_decay, train.epochs, train.warmup_steps, train.seed) == (3.0, 0.5, 5, 9, 1)


def test_a_variant_refers_to_the_run_of_another_one(tiny_recipe: Path, tmp_path: Path) -> None:
    variants = {"first": {}, "second": {"init": "@first"}}
    path = write(tmp_path / "recipes", tiny_recipe, grid={"train.lr": [0.1, 0.2]}, variants=variants, seeds=2)
    sweep = load_sweep(path)
    found = {cell.name: sweep.config(cell, tmp_path / "out", None).init for cell in sweep.cells()}
    assert found["second-lr_0_2-seed1"] == str(tmp_path / "out" / "first-lr_0_2-seed1")
    assert found["first-lr_0_2-seed1"] is None


def test_paths_are_relative_to_the_sweep_file(tiny_recipe: Path, tmp_path: Path) -> None:
    variants = {
        "a": {"data.manifest": "sets/m.csv", "text.cache_dir": "c"},
        "b": {"data.manifest": "medvl:cxr_regions"},
    }
    sweep = load_sweep(write(tmp_path / "deep", tiny_recipe, variants=variants))
    a, b = (sweep.config(cell, tmp_path, None) for cell in sweep.cells())
    assert a.data.manifest == str(tmp_path / "deep" / "sets" / "m.csv") and a.text.cache_dir == str(tmp_path / "deep/c")
    assert b.data.manifest == "medvl:cxr_regions"


@pytest.mark.parametrize("place", ["recipe", "sweep", "scoring"])
def test_data_stands_for_the_folder_of_the_sets(tiny_recipe: Path, tmp_path: Path, place: str) -> None:
    name = "$DATA/btxrd/manifest.csv"
    path = write(tmp_path, tiny_recipe, **({"overrides": {"data.manifest": name}} if place == "sweep" else {}))
    if place == "recipe":
        recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
        recipe["data"]["manifest"] = name
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    if place == "scoring":
        path.write_text(path.read_text() + f"evaluate: {{manifest: {name}}}\n")
    sweep = load_sweep(path)
    cell = next(sweep.cells())

    def resolved(data: Path | None) -> str:
        return (
            str(sweep.scoring_manifest(data))
            if place == "scoring"
            else sweep.config(cell, tmp_path, data).data.manifest
        )

    assert resolved(tmp_path / "sets") == str(tmp_path / "sets" / "btxrd" / "manifest.csv")
    with refused("missing"):
        resolved(None)
    with refused("missing"):
        run_sweep(path, tmp_path / "out")
    with refused("missing_file"):
        run_sweep(path, tmp_path / "out", data=tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()
    assert [outcome.state for outcome in run_sweep(path, tmp_path / "out", dry_run=True)] == ["open"]


@pytest.mark.parametrize(
    ("keys", "kinds", "naming"),
    [
        ({"variant": {}}, "unknown_key", "variants"), ({"evaluate": {"splt": "val"}}, "unknown_key", "evaluate.split"),
        ({"evaluate": {"overrides": {"train.lr": 1}}}, "unknown", "train.lr"),
        ({"variants": {"a": {"train.epoch": 1}}}, "unknown_key", "train.epochs"),
        ({"variants": {"a": {"recipe": "nowhere.yaml"}}}, "missing_file", "nowhere.yaml"),
        ({"variants": {}}, "out_of_range", "variants"), ({"grid": {"train.lr": []}}, "out_of_range", "grid.train.lr"),
        ({"grid": {"train.lr": [1]}, "variants": {"a": {"train.lr": 2}}}, "conflict", "train.lr"),
        ({"variants": {"b": {"init": "@a"}, "a": {}}}, "conflict", "@a"),
        ({"variants": {"a": {}, "b": {"init": "@a"}}, "seeds": {"a": 1, "b": 2}}, "conflict", "@a"),
        ({"variants": {"a": {"train.seed": 3}}}, "conflict", "train.seed"),
        ({"variants": {"a b": {}, "a,b": {}}}, "duplicate", "a_b-seed0"),
        ({"seeds": {"text": 1, "other": 1}}, "mismatch", "other"), ({"seeds": 0}, "out_of_range malformed", "seeds"),
    ],
)  # fmt: skip
def test_a_fault_of_a_sweep_is_found_when_it_is_read(
    tiny_recipe: Path, tmp_path: Path, keys: dict[str, Any], kinds: str, naming: str
) -> None:
    with refused(*kinds.split(), naming=naming):
        load_sweep(write(tmp_path, tiny_recipe, **keys))


@pytest.mark.parametrize(("name", "kind"), [("recipe.yaml", "malformed"), ("none.yaml", "missing_file")])
def test_a_recipe_is_no_sweep(tiny_recipe: Path, name: str, kind: str) -> None:
    with refused(kind):
        load_sweep(tiny_recipe.parent / name)


# --- running


@pytest.fixture(scope="module")
def swept(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(sweep file, out) of a small sweep after it was run: two variants, one of them started from the other."""
    folder = tmp_path_factory.mktemp("swept")
    path = write(
        folder / "recipes", tiny_recipe, overrides={"train.epochs": 2, "train.val_every": 2},
        grid={"train.lr": [0.004]}, variants={"text": {}, "from text": {"init": "@text", "train.epochs": 1}},
        evaluate={"split": "test", "rows_by": ["kind"], "probe": 4},
    )  # fmt: skip
    outcomes = run_sweep(path, folder / "out")
    assert [outcome.state for outcome in outcomes] == ["done"] * 2 and not any(o.error for o in outcomes)
    return path, folder / "out"


def test_result_files_hold_what_the_table_needs(swept: tuple[Path, Path]) -> None:
    path, out = swept
    files = sorted((out / "results").iterdir())
    assert [file.stem for file in files] == sorted(planned(path))
    cell = json.loads((out / "results" / "from_text-lr_0_004-seed0.json").read_text())
    assert (cell["variant"], cell["seed"], cell["recipe"]) == ("from text", 0, "recipe.yaml")
    assert cell["grid_point"] == {"train.lr": 0.004} and cell["grid"] == "native"
    assert cell["overrides"] == ["train.epochs=1", "train.val_every=2", "train.lr=0.004", "init=@text"]
    assert cell["command"] == "medvl x sweep sweep.yaml --out runs/tiny"
    assert cell["minutes"] >= 0 and cell["num_cases"] == 8 and cell["split"] == "test"
    assert [row["name"] for row in cell["rows"][:3]] == ["true text", "left", "right"]
    assert {row["name"] for row in cell["rows"][3:]} == {"empty", "another patient's", "sides swapped"}
    first = cell["rows"][0]
    assert first["num"] == 8 and first["dice_per_image"] == cell["metrics"]["dice_per_image"]
    assert cell["rows"][3]["num"] == 4  # the probe was limited to four rows
    assert {"versions", "machine", "threshold", "threshold_source", "empty_mask", "notes", "model_hash"} <= set(cell)


def test_result_files_name_no_place_on_this_machine(swept: tuple[Path, Path]) -> None:
    path, out = swept
    for file in (out / "results").iterdir():
        text = file.read_text()
        places = (str(path.parent.parent), str(Path.home()), str(Path.cwd()), str(Path(sys.prefix)), "pytest-of")
        assert not any(place in text for place in places)
        config = json.loads(text)["config"]
        assert config["data"]["manifest"].startswith("../") and config["init"] in (None, "@text")


def test_a_run_of_a_sweep_is_the_run_that_train_makes(swept: tuple[Path, Path], tmp_path: Path) -> None:
    path, out = swept
    words = ["train.epochs=2", "train.val_every=2", "train.lr=0.004", "train.seed=0"]
    alone = run_module.train(load_config(path.parent / "recipe.yaml", words), tmp_path / "alone")
    assert_same(out / "text-lr_0_004-seed0", alone)


def test_finished_cells_are_neither_trained_nor_scored_again(swept: tuple[Path, Path], no_training: None) -> None:
    path, out = swept
    files = {file: file.stat().st_mtime_ns for file in (out / "results").iterdir()}
    assert {len((out / name / "test_log.jsonl").read_text().splitlines()) for name in planned(path)} == {1}
    outcomes = run_sweep(path, out)
    assert {outcome.state for outcome in outcomes} == {"done"} and not any(outcome.note for outcome in outcomes)
    assert files == {file: file.stat().st_mtime_ns for file in files}


def test_a_finished_run_without_result_is_only_scored(swept: tuple[Path, Path], no_training: None) -> None:
    path, out = swept
    file = out / "results" / "text-lr_0_004-seed0.json"
    content = file.read_text()
    file.unlink()
    (listed,) = (o for o in run_sweep(path, out, dry_run=True, only=["text"]) if o.state == "open")
    assert (listed.cell.name, listed.note) == ("text-lr_0_004-seed0", "to score")
    run_sweep(path, out, only=["text"])
    assert file.read_text() == content
    assert len((out / "text-lr_0_004-seed0" / "test_log.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("content", ["half", "[]", ""])
def test_a_damaged_result_file_is_named_and_stops_no_other_cell(
    content: str, swept: tuple[Path, Path], no_training: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = swept
    file = out / "results" / "text-lr_0_004-seed0.json"
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2] if content == "half" else content)
    try:
        for dry_run in (True, False):
            outcomes = run_sweep(path, out, dry_run=dry_run)
            (bad,) = (outcome for outcome in outcomes if outcome.error)
            assert bad.state == "open" and f"{file}: damaged (" in bad.error and "remedy: delete it" in bad.error
            assert all(outcome.state == "done" for outcome in outcomes if outcome is not bad)
            assert f"FAILED: {file}" in as_table(outcomes)
    finally:
        file.write_text(whole)


def test_a_changed_sweep_says_so_of_its_old_results(
    swept: tuple[Path, Path], tmp_path: Path, no_training: None
) -> None:
    path, out = swept
    changed = path.with_name("changed.yaml")
    changed.write_text(path.read_text().replace("train.val_every: 2", "train.val_every: 1"))
    outcomes = run_sweep(changed, out)
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert all("train.val_every" in outcome.note for outcome in outcomes)
    for file in (out / "results").iterdir():
        file.rename(tmp_path / file.name)
    failed = run_sweep(changed, out, only=["text"])
    for file in tmp_path.glob("*.json"):
        file.rename(out / "results" / file.name)
    assert len(failed) == 1 and "train.val_every" in failed[0].error


def test_overrides_of_the_command_line_are_another_experiment(
    swept: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = swept
    words = ["train.max_steps=1", "train.save_every_s=50", f"text.cache_dir={tmp_path / 'cache'}"]
    (first,) = run_sweep(path, tmp_path / "trial", only=["text"], overrides=words)
    assert first.state == "done"
    cell = json.loads((tmp_path / "trial" / "results" / f"{first.cell.name}.json").read_text())
    assert cell["overrides"][-3:] == [*words[:2], "text.cache_dir=cache"] and cell["config"]["train"]["max_steps"] == 1
    assert str(tmp_path) not in json.dumps(cell)
    (same,) = run_sweep(path, tmp_path / "trial", only=["text"], overrides=[*words, "data.num_workers=0"], dry_run=True)
    assert (same.state, same.note) == ("done", "")


def test_an_interrupted_cell_goes_on_to_the_same_bits(
    swept: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = swept
    raw = yaml.safe_load(path.read_text()) | {"evaluate": {}}
    sweep = path.with_name("again.yaml")
    sweep.write_text(yaml.safe_dump(raw, sort_keys=False))
    original, calls = SegmentLearner.training_step, [0]

    def interrupted(self: SegmentLearner, *args: object) -> dict[str, Any]:
        calls[0] += 1
        # One set of plan steps (on a copy) comes first; then the run is stopped in the midst of its four steps.
        if self.progress > 0.3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(SegmentLearner, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, tmp_path / "out", only=["text"])
    monkeypatch.setattr(SegmentLearner, "training_step", original)
    assert [o.note for o in run_sweep(sweep, tmp_path / "out", only=["text"], dry_run=True)] == ["to resume"]
    assert not (tmp_path / "out/text-lr_0_004-seed0/model").exists()
    resumed: list[bool] = []
    train = run_module.train

    def listen(*args: Any, **kwargs: Any) -> Path:
        resumed.append(kwargs.get("resume", False))
        return train(*args, **kwargs)

    monkeypatch.setattr(run_module, "train", listen)
    (outcome,) = run_sweep(sweep, tmp_path / "out", only=["text"])
    assert outcome.state == "done" and resumed == [True]
    assert_same(out / "text-lr_0_004-seed0", tmp_path / "out" / "text-lr_0_004-seed0")


def test_a_run_stopped_before_anything_was_saved_begins_anew(tiny_recipe: Path, tmp_path: Path) -> None:
    path = write(tmp_path, tiny_recipe)
    sweep = load_sweep(path)
    run = tmp_path / "out" / "text-seed0"
    run.mkdir(parents=True)
    save_config(sweep.config(next(sweep.cells()), tmp_path / "out", None), run / "config.yaml")
    assert [outcome.state for outcome in run_sweep(path, tmp_path / "out")] == ["done"]
    assert (tmp_path / "out" / "results" / "text-seed0.json").is_file()


def test_a_cell_that_fails_does_not_stop_the_others(tiny_recipe: Path, tmp_path: Path) -> None:
    # The texts name sides, so a laterality must be declared; that is found when a cell's data is read.
    variants = {"bad": {"data.laterality": None}, "after": {"init": "@bad"}, "good": {}}
    path = write(tmp_path, tiny_recipe, variants=variants)
    outcomes = run_sweep(path, tmp_path / "out")
    assert [(o.cell.variant, o.state) for o in outcomes] == [("bad", "open"), ("after", "open"), ("good", "done")]
    assert "laterality" in outcomes[0].error and "@bad" in outcomes[1].error


def test_a_column_to_score_by_must_exist_before_anything_is_trained(
    tiny_recipe: Path, tmp_path: Path, no_training: None
) -> None:
    for evaluate, naming in (({"rows_by": ["knid"]}, "knid"), ({"split": "holdout"}, "holdout")):
        (outcome,) = run_sweep(write(tmp_path, tiny_recipe, evaluate=evaluate), tmp_path / "out")
        assert naming in outcome.error
    with refused("unknown"):
        run_sweep(write(tmp_path, tiny_recipe), tmp_path / "out", only=["txt"])


def test_a_cell_that_another_process_is_at_is_left_to_it(tiny_recipe: Path, tmp_path: Path, no_training: None) -> None:
    path, lock = write(tmp_path, tiny_recipe), tmp_path / "out" / ".locks" / "text-seed0"
    lock.parent.mkdir(parents=True)
    program = (
        "import fcntl, sys\nf = open(sys.argv[1], 'w')\nfcntl.flock(f, fcntl.LOCK_SH)\nprint('held', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program + "input()", str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        (outcome,) = run_sweep(path, tmp_path / "out")
        assert (outcome.state, outcome.note) == ("open", "another process is at it")
        other.communicate("\n")


def test_a_cell_waits_for_the_run_that_another_process_is_at(
    tiny_recipe: Path,
    tmp_path: Path,
    no_training: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    variants = {"first": {}, "second": {"init": "@first"}, "third": {"init": "@second"}}
    path, lock = write(tmp_path, tiny_recipe, variants=variants), tmp_path / "out" / ".locks" / "first-seed0"
    lock.parent.mkdir(parents=True)
    handle, looks = os.open(lock, os.O_RDWR | os.O_CREAT), []
    fcntl.flock(handle, fcntl.LOCK_EX)

    def sleep(seconds: float) -> None:
        assert "error" not in capfd.readouterr().err  # neither the next one nor the one after it is tried
        looks.append(seconds)
        if looks.count(POLL_S) == 2:  # the other process ends without the run that is waited for
            os.close(handle)

    monkeypatch.setattr(time, "sleep", sleep)
    first, second, third = run_sweep(path, tmp_path / "out")
    assert first.note == "another process is at it" and looks.count(POLL_S) == 2
    assert "@first" in second.error and "@second" in third.error


def test_a_finished_sweep_has_a_table_of_differences(swept: tuple[Path, Path]) -> None:
    _, out = swept
    table = json.loads((out / "sweep.json").read_text())
    (group,) = table["groups"]
    first, second = group["rows"]
    assert (first["name"], second["name"], group["reference"]) == ("text", "from text", "text")
    dice = [row["metrics"]["dice_per_image"] for row in group["rows"]]
    files = [out / "results" / f"{name}-lr_0_004-seed0.json" for name in ("text", "from_text")]
    stored = [json.loads(file.read_text()) for file in files]
    means = [result["metrics"]["dice_per_image"]["mean"] for result in stored]
    assert [one["mean"] for one in dice] == pytest.approx(means)
    gap = dice[1]["difference"]
    assert dice[0]["difference"] is None and gap["mean"] == pytest.approx(means[1] - means[0])
    lines = (out / "sweep.md").read_text().splitlines()
    assert len(lines) == 4 and "| reference |" in lines[2] and f"{means[1]:.3f}" in lines[3]
    assert ("within noise" in lines[3]) == (gap["lo"] <= 0 <= gap["hi"])
    assert str(out) not in json.dumps(table)


def test_outcome_names_what_is_within_noise() -> None:
    def row(name: str, gap: tuple[float, float, float] | None) -> dict[str, Any]:
        difference = gap and dict(zip(("mean", "lo", "hi"), gap, strict=True))
        return {"name": name, "metrics": {"dice": {"difference": difference}}}

    rows = [row("a", None), row("b", (0.1, 0.05, 0.2)), row("c", (-0.1, -0.2, -0.05)), row("d", (0.01, 0.0, 0.02))]
    group = {"reference": "a", "tested": ["dice"], "grid_point": {"data.label_fraction": 0.05}, "rows": rows}
    assert outcome(group) == "Against a at label fraction 0.05: better: b. worse: c. within noise: d."


def test_absolute_paths_leave_a_result_file() -> None:
    roots = {Path("/home/me/out"): "$OUT", Path("/home/me"): "~"}
    value = {"a": ["/home/me/out/x y/z", "data.manifest=/mnt/sets/m.csv", "hf:/models/bert", "1/2", 3, None]}
    value |= {"b": "see /home/me/out, or /home/me/other/x", "c": "/home/mellow/z"}
    assert without_machine_paths(value, roots) == {
        "a": ["$OUT/x y/z", "data.manifest=m.csv", "hf:bert", "1/2", 3, None],
        "b": "see $OUT, or ~/other/x",
        "c": "z",
    }


def test_the_command_line_runs_a_sweep(tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variants = {"text": {}, "bad": {"data.laterality": None}}
    path = write(tmp_path, tiny_recipe, variants=variants)

    def medvl(*words: str) -> tuple[int, list[list[str]]]:
        """The exit code, and the words of each line."""
        code = app(["x", "sweep", str(path), "--out", str(tmp_path / "out"), *words], standalone_mode=False)
        return int(code or 0), [line.split() for line in capsys.readouterr().out.splitlines()]

    assert medvl("--dry-run") == (0, [["open", "text-seed0"], ["open", "bad-seed0"], "0 of 2 cells done".split()])
    assert not (tmp_path / "out").exists()
    code, lines = medvl("train.accelerator=cpu")
    assert code == 2 and [line[:2] for line in lines[:2]] == [["done", "text-seed0"], ["open", "bad-seed0"]]
    assert (tmp_path / "out" / "results" / "text-seed0.json").is_file()


def test_differences_of_configurations() -> None:
    there = {"train": {"lr": 1, "devices": 1}, "model": {"options": {"plam": "avg"}}, "old": 1}
    here = {"train": {"lr": 2, "devices": 4, "new": 5}, "model": {"options": {}}}
    assert differences(there, here) == {"train.lr": (1, 2), "model.options.plam": ("avg", None)}
    assert flat({"a": {"b": {"c": 1}}, "d": [2]}) == {"a.b.c": 1, "d": [2]}
