"""medvl predict and medvl evaluate, and their older spellings, on a model pre-trained here for seconds."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from faults import refused
from PIL import Image

import medvl
from medvl.cli.evaluate import evaluate
from medvl.cli.old_spellings import classify, ground
from medvl.cli.predict import predict
from medvl.config import load_config
from medvl.core.errors import UnfinishedError
from medvl.data.masks import read_mask
from medvl.inference.batch import predict_files
from medvl.text.prompts import load_prompts
from medvl.train.run import train

Cli = Callable[..., str]


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of 48 x 36: a bright disc in the upper or lower half, which text and label name; run/ is pre-trained."""
    folder = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :36]
    rows = ["id,image,text,mask_spot,labels,labels_unknown,patient,split"]
    for i in range(40):
        zone = ("upper", "lower")[i % 2]
        disc = (y - (12 if zone == "upper" else 36)) ** 2 + (x - rng.integers(10, 26)) ** 2 < 40
        pixels = rng.normal(60, 10, y.shape) + 120 * disc
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        Image.fromarray((disc * 255).astype(np.uint8)).save(folder / f"{i}_m.png")
        split = "train" if i < 24 else "val" if i < 32 else "test"
        unknown = "lower_opacity" if i == 24 else ""
        rows.append(f"c{i},{i}.png,{zone} opacity,{i}_m.png,{zone}_opacity,{unknown},p{i},{split}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    (folder / "recipe.yaml").write_text(
        "task: pretrain\n"
        "data: {manifest: manifest.csv, laterality: patient, image_size: [48, 40], in_channels: 1}\n"
        "text: {dim: 16}\n"
        "model: {size: nano, options: {projection_dim: 16, pool_stride: 16}}\n"
        "pretrain: {decoder: none, warmup_steps: 1, num_panels: 0}\n"
        "train: {max_steps: 4, batch_size: 8, lr: 1.0e-3, warmup_steps: 2, accelerator: cpu}\n"
    )
    train(load_config(folder / "recipe.yaml"), folder / "run")
    return folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The two verbs with their real options; -> what was printed on stdout."""
    app = typer.Typer()
    app.command("classify")(classify)
    app.command("ground")(ground)
    app.command("predict")(predict)
    app.command("evaluate")(evaluate)

    def call(*words: object) -> str:
        app([str(word) for word in words], standalone_mode=False)
        return capsys.readouterr().out

    return call


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_classify(discs: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = json.loads(cli("classify", discs / "run", discs / "manifest.csv", "--out", out, "--json"))
    assert list(summary["by_class"]) == ["lower_opacity", "upper_opacity"] and summary["num_cases"] == 8
    assert summary["num_missing"] == {"lower_opacity": 1, "upper_opacity": 0}
    assert summary["prompts"]["upper_opacity"] == {"positive": ["upper opacity"], "negative": ["no upper opacity"]}
    assert summary["temperature"] == 0.07 and summary["threshold_source"] == "val"
    rows = rows_of(out / "cases.csv")
    assert len(rows) == 8 and rows[0]["label_lower_opacity"] == "" and rows[0]["label_upper_opacity"] == "1"
    assert all(0 < float(row["prob_upper_opacity"]) < 1 for row in rows)

    plain = json.loads(cli("classify", discs / "run", discs / "manifest.csv", "--temperature", "none", "--json"))
    assert plain["temperature"] == 1
    for name in summary["by_class"]:  # the temperature changes no order
        assert plain["by_class"][name]["auc"] == summary["by_class"][name]["auc"]
        assert plain["by_class"][name]["brier"] != summary["by_class"][name]["brier"]


@pytest.mark.parametrize(
    ("words", "source", "temperature", "rules"),
    [
        (["chexzero"], "fixed", 1, ["max f1 (MedKLIP)", "max mcc (KAD)"]),
        (["medklip"], "val", 0.07, ["max f1 (MedKLIP)"]),
        (["kad", "--threshold-from", "fixed"], "fixed", 0.07, ["max mcc (KAD)"]),  # what is given wins
    ],
)
def test_classify_by_a_published_protocol(
    discs: Path, cli: Cli, words: list[str], source: str, temperature: float, rules: list[str]
) -> None:
    found = json.loads(cli("classify", discs / "run", discs / "manifest.csv", "--json", "--protocol", *words))
    assert (found["protocol"], found["threshold_source"], found["prompt_family"]) == (words[0], source, "chexzero")
    assert found["temperature"] == temperature
    assert list(found["decisions"]["threshold chosen on val, published practice"]) == rules


def test_classify_on_test_is_logged_and_takes_its_thresholds_from_val(discs: Path, cli: Cli, tmp_path: Path) -> None:
    prompts = tmp_path / "mine.yaml"
    prompts.write_text('pairs: {upper opacity: {positive: ["upper opacity"], negative: ["lower opacity"]}}')
    words = ["--prompts", prompts, "--classes", "upper_opacity", "--split", "test"]
    text = cli("classify", discs / "run", discs / "manifest.csv", *words)
    assert "threshold chosen on val (8 images)" in text and "upper_opacity" in text
    assert "threshold chosen on test, published practice" in text
    line = json.loads((discs / "run" / "test_log.jsonl").read_text().splitlines()[-1])
    assert line["num_cases"] == 8 and 0 <= line["metrics"]["auc"] <= 1
    assert "test split opened: " in (discs / "run" / "model" / "card.md").read_text()


def test_ground_a_manifest(discs: Path, cli: Cli, tmp_path: Path) -> None:
    words = ["--target", "mask_spot", "--out", tmp_path / "out", "--json"]
    summary = json.loads(cli("ground", discs / "run", discs / "manifest.csv", *words))
    assert set(summary["methods"]) == {"phrase", "shuffled phrase", "chance", "everything"}
    assert summary["num_cases"] == 8 and summary["split"] == "val" and "each half" in summary["threshold_source"]
    assert all(value["mean"] is not None for value in summary["metrics"].values())
    rows = rows_of(tmp_path / "out" / "cases.csv")
    assert len(rows) == 32 and {row["method"] for row in rows} == set(summary["methods"])
    shuffled = [row for row in rows if row["method"] == "shuffled phrase"]
    assert all(row["text"] != f"{('upper', 'lower')[int(row['id'][1:]) % 2]} opacity" for row in shuffled)

    text = cli("ground", discs / "run", discs / "manifest.csv", "--target", "spot")
    told = re.search(r"^for an image: --threshold (\S+), the best of all val cases", text, re.MULTILINE)
    assert told and float(told[1]) == pytest.approx(summary["published_practice"]["threshold"], abs=1e-4)
    found = cli(
        "ground", discs / "run", discs / "30.png", "--text", "opacity", "--threshold", told[1], "--out", tmp_path
    )
    assert "need --threshold" not in found and (tmp_path / "30__opacity.png").is_file()

    log = discs / "run" / "test_log.jsonl"
    before = len(log.read_text().splitlines()) if log.is_file() else 0
    words = ["--target", "spot", "--split", "test", "--phrase", "opacity"]
    text = cli("ground", discs / "run", discs / "manifest.csv", *words)
    assert "share of the true mask's pixels" in text and "best Dice per case on 8 cases" in text
    assert "threshold chosen on test, published practice (" in text and "for an image" not in text
    assert len(log.read_text().splitlines()) == before + 1


def test_ground_one_image(discs: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = cli("ground", discs / "run", discs / "30.png", "--text", "upper opacity", "--out", out)
    assert "no mask, no box" in text and f"medvl evaluate {discs / 'run'} MANIFEST" in text
    assert {p.name for p in out.iterdir()} == {"30__upper-opacity_similarity.png", "predictions.csv"}
    words = ["--text", "upper opacity", "--text", "lower opacity", "--threshold", "-1", "--out", out]
    found = json.loads(cli("ground", discs / "run", discs / "30.png", *words, "--json"))
    assert [row["text"] for row in found["phrases"]] == ["upper opacity", "lower opacity"]
    for row in found["phrases"]:
        mask = np.asarray(Image.open(out / row["mask"]))
        assert mask.shape == (48, 36) and mask.all() and row["box"] == "0 0 36 48"
        assert np.asarray(Image.open(out / row["similarity"])).shape[2] == 3
    assert "box x0 y0 x1 y1: 0 0 36 48" in cli("ground", discs / "run", discs / "30.png", *words)
    high = cli("ground", discs / "run", discs / "30.png", "--text", "upper opacity", "--threshold", 1, "--out", out)
    assert "no box" in high and not np.asarray(Image.open(out / "30__upper-opacity.png")).any()


def test_classify_images_and_a_table_without_splits(discs: Path, cli: Cli, tmp_path: Path) -> None:
    whole = json.loads(cli("classify", discs / "run", discs / "manifest.csv", "--out", tmp_path / "val", "--json"))
    prob_of = {row["image"]: row["prob_upper_opacity"] for row in rows_of(tmp_path / "val" / "cases.csv")}
    words = ["--classes", "upper_opacity", "--json"]
    files = [discs / name for name in list(prob_of)[:2]]
    found = json.loads(cli("classify", discs / "run", *files, *words, "--out", tmp_path / "images"))
    rows = rows_of(tmp_path / "images" / "cases.csv")
    assert found["num_cases"] == 2 and not found["by_class"] and found["split"] == "all"
    assert [row["prob_upper_opacity"] for row in rows] == [prob_of[path.name] for path in files]
    assert [row["id"] for row in rows] == [path.stem for path in files]

    lines = list(csv.DictReader((discs / "manifest.csv").open()))
    columns = [name for name in lines[0] if name != "split"]
    with (discs / "no_splits.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row for row in lines if row["split"] == "val")
    try:
        every = json.loads(cli("classify", discs / "run", discs / "no_splits.csv", "--json"))
    finally:
        (discs / "no_splits.csv").unlink()
    assert every["split"] == "all" and every["threshold"] == 0.5
    for name, row in whole["by_class"].items():
        assert every["by_class"][name]["auc"]["mean"] == row["auc"]["mean"]


def test_ground_folders_and_volumes(discs: Path, cli: Cli, tmp_path: Path) -> None:
    import nibabel

    (tmp_path / "set" / "deep").mkdir(parents=True)
    picture = Image.open(discs / "30.png")
    picture.save(tmp_path / "set" / "deep" / "30.png")
    values = np.stack([np.asarray(picture).T[::-1, ::-1] * k for k in (1, 0, 1)], axis=2).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "set" / "v.nii.gz")
    words = ["--text", "upper opacity", "--threshold", "0.1", "--json"]
    with refused("ambiguous", naming="--slice"):
        cli("ground", discs / "run", tmp_path / "set", *words, "--out", tmp_path / "none")
    words += ["--slice"]
    found = json.loads(cli("ground", discs / "run", tmp_path / "set", "--out", tmp_path / "all", *words, "all"))
    flat, volume = sorted(found["phrases"], key=lambda row: row["id"])
    assert flat["id"] == "30" and volume["mask"] == "v__upper-opacity.nii.gz"
    one = json.loads(cli("ground", discs / "run", tmp_path / "set" / "v.nii.gz", "--out", tmp_path / "one", *words, 2))[
        "phrases"
    ][0]
    mask = np.asarray(Image.open(tmp_path / "one" / one["mask"])) > 0
    volume_file = tmp_path / "all" / volume["mask"]
    assert (read_mask(volume_file, slice_index=2) == mask).all() and volume["slice"] in (0, 2)
    assert nibabel.load(volume_file).shape == values.shape
    content = (discs / "31.png").read_bytes()
    (tmp_path / "set" / "a.png").write_bytes(content[: len(content) * 8 // 10])  # only decoding shows the damage
    with pytest.raises(UnfinishedError, match=r"a\.png"):
        cli("ground", discs / "run", tmp_path / "set", "--out", tmp_path / "some", *words, 0)
    assert (tmp_path / "some" / "30__upper-opacity.png").is_file()


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["30.png", "--out", "x"], "missing"),
        (["30.png", "--text", "a"], "missing"),
        (["30.png", "--text", "a", "--split", "test", "--seed", "1"], "conflict"),
        (["manifest.csv", "--text", "a"], "conflict"),
        (["manifest.csv", "--phrase", "a", "--phrase-column", "b", "--target", "spot"], "conflict"),
        (["manifest.csv"], "unknown"),
        (["manifest.csv", "--target", "spots"], "missing_column"),
        (["absent.png", "--text", "a", "--out", "x"], "missing_file"),
    ],
)
def test_ground_errors(discs: Path, cli: Cli, words: list[Any], kind: str) -> None:
    with refused(kind):
        cli("ground", discs / "run", discs / words[0], *words[1:])


def test_predict_and_load_ask_a_pre_training_too(discs: Path, tmp_path: Path) -> None:
    """The same answers from `medvl predict` and from `medvl.load`."""
    run = discs / "run"
    rows = predict_files(run, [discs / "30.png"], ["upper opacity"], tmp_path / "maps", threshold=-1)
    reader = medvl.load(run).set_image(discs / "30.png")
    answer = reader.ground("upper opacity", -1)
    assert rows[0]["highest"] == round(float(answer.similarity_map.max()), 6)
    assert (read_mask(tmp_path / "maps" / rows[0]["mask"]) == answer.mask).all()
    names = ["upper_opacity", "lower_opacity"]
    (row,) = predict_files(run, [discs / "30.png"], [], tmp_path / "probs", classes=names)
    probs = reader.classify(load_prompts().prompts(names))
    assert [row[f"prob_{name}"] for name in names] == [round(probs[name], 6) for name in names]
    with refused("missing", file=discs / "30.png"):
        predict_files(run, [discs / "30.png"], [], tmp_path / "no")
    with refused("conflict"):
        predict_files(run, [discs / "30.png"], ["opacity"], tmp_path / "no", classes=names)
    assert not (tmp_path / "no").exists()


def test_predict_asks_a_pre_trained_model(discs: Path, cli: Cli, tmp_path: Path) -> None:
    images = [discs / "30.png", discs / "31.png"]
    made = json.loads(
        cli("predict", discs / "run", *images, "--text", "upper opacity", "--out", tmp_path / "a", "--json")
    )
    table = rows_of(tmp_path / "a" / "predictions.csv")
    assert [row["id"] for row in table] == [row["id"] for row in made["predictions"]] == ["30", "31"]
    assert all((tmp_path / "a" / row["similarity"]).is_file() for row in table)
    old = json.loads(
        cli("ground", discs / "run", *images, "--text", "upper opacity", "--out", tmp_path / "b", "--json")
    )
    assert old["phrases"] == made["predictions"]
    text = cli("predict", discs / "run", *images, "--classes", "upper_opacity, lower_opacity", "--out", tmp_path / "c")
    assert text.startswith("30  (upper_opacity 0.") and len(text.splitlines()) == 2
    rows = rows_of(tmp_path / "c" / "predictions.csv")
    cases = tmp_path / "cases"
    cli("classify", discs / "run", *images, "--classes", "upper_opacity,lower_opacity", "--out", cases)
    for row, case in zip(rows, rows_of(cases / "cases.csv"), strict=True):
        assert float(row["prob_upper_opacity"]) == pytest.approx(float(case["prob_upper_opacity"]), abs=1e-5)


def test_evaluate_scores_a_pre_trained_model(discs: Path, cli: Cli, tmp_path: Path) -> None:
    """By phrases where there are masks, by prompts where an option says so; as the older verbs do."""
    run, manifest = discs / "run", discs / "manifest.csv"
    for old, words in (("ground", ["--target", "spot"]), ("classify", ["--temperature", "none"])):
        scored = json.loads(cli("evaluate", run, manifest, *words, "--out", tmp_path / old, "--json"))
        expected = json.loads(cli(old, run, manifest, *words, "--out", tmp_path / f"{old}_old", "--json"))
        assert scored["metrics"] == expected["metrics"] and scored["num_cases"] == expected["num_cases"] > 0
        assert (tmp_path / old / "cases.csv").read_bytes() == (tmp_path / f"{old}_old" / "cases.csv").read_bytes()
    assert json.loads(cli("evaluate", run, manifest, "--phrase", "upper opacity", "--target", "spot", "--out",
                          tmp_path / "one", "--json"))["phrase"] == "upper opacity"  # fmt: skip
    fixed = json.loads(cli("evaluate", run, manifest, "--classes", "upper_opacity", "--threshold", "0.5", "--out",
                           tmp_path / "fixed", "--json"))  # fmt: skip
    assert list(fixed["by_class"]) == ["upper_opacity"] and next(iter(fixed["decisions"])) == "threshold 0.5"
    lines = rows_of(manifest)
    with (discs / "labels.csv").open("w", newline="") as file:
        columns = [name for name in lines[0] if not name.startswith("mask")]
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    labels = json.loads(cli("evaluate", run, discs / "labels.csv", "--out", tmp_path / "labels", "--json"))
    assert labels["evaluation"] == "zero-shot classify"


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "30.png", "--classes", "a", "--text", "b"), ("predict", "30.png", "--classes", "a", "--sigma", "2"),
        ("predict", "30.png", "--text", "b", "--temperature", "none"),
        ("predict", "30.png", "--text", "b", "--context", "age=3"),
        ("evaluate", "manifest.csv", "--classes", "upper_opacity", "--sigma", "2"),
        ("evaluate", "manifest.csv", "--empty-mask", "zero"), ("evaluate", "manifest.csv", "--group-by", "split"),
        ("evaluate", "manifest.csv", "--target", "spot", "--probe"), ("evaluate", "manifest.csv", "--update-card"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(discs: Path, cli: Cli, tmp_path: Path, words: tuple[str, ...]) -> None:
    verb, source, *options = words
    with refused("conflict"):
        cli(verb, discs / "run", discs / source, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
