"""Classification through the real command line and through its task, on phantoms drawn here."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from faults import refused
from PIL import Image
from runs import check_resumed, check_two_processes, logged, medvl, save_pretrained
from safetensors.torch import load_file

from medvl.cli.evaluate import evaluate
from medvl.config import Config, load_config
from medvl.data.class_labels import ClassDataset, class_labels
from medvl.data.dataset import collate
from medvl.data.records import load_manifest
from medvl.evaluation.report.page import make_report
from medvl.inference.predictor import Predictor
from medvl.metrics.classification import auc, best_threshold
from medvl.models.classifier import ImageClassifier
from medvl.tasks.classify.evaluate import as_text, evaluate_classifier
from medvl.tasks.classify.learner import ClassifyLearner, class_weights, label_loss
from medvl.tasks.classify.model import build_classifier
from medvl.train.run import train

CLASSES = ("bar", "disc")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disc, a bar, both or neither ("normal"): 24 train, 12 val, 12 test images, two of a patient; some unknown."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    rows = ["id,image,text,labels,labels_unknown,kind,patient,split,view"]
    for i in range(48):
        disc, bar = i % 4 in (1, 3), i % 4 in (2, 3)
        pixels = rng.normal(90, 12, y.shape)
        pixels += 90 * disc * ((y - 20) ** 2 + (x - 20) ** 2 < 90) + 90 * bar * ((abs(y - 48) < 4) & (abs(x - 40) < 20))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        unknown = "bar" if i % 10 == 0 and not bar else ""
        names = "|".join(name for name, there in (("disc", disc), ("bar", bar)) if there) or "normal"
        split = "train" if i < 24 else "val" if i < 36 else "test"
        kind = ("clear", "disc", "bar", "both")[i % 4]
        rows.append(f"c{i},{i}.png,the left lung,{names},{unknown},{kind},p{i // 2},{split},{'L' if i == 5 else 'PA'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    one_label = [row.split(",") for row in rows]
    lines = [",".join([*row[:3], row[5] if i else "labels", "", *row[5:]]) for i, row in enumerate(one_label)]
    (folder / "one.csv").write_text("\n".join(lines).replace("labels,,kind", "labels,labels_unknown,kind") + "\n")
    (folder / "recipe.yaml").write_text(
        "task: classify\n"
        "data: {manifest: manifest.csv, image_size: [64, 64], in_channels: 1, normalize: none}\n"
        "model: {size: nano}\n"
        "classify: {mode: finetune, negative_names: [normal]}\n"
        "train: {epochs: 2, batch_size: 8, lr: 2.0e-3, warmup_steps: 2, accelerator: cpu}\n"
    )
    return folder


@pytest.fixture(scope="module")
def g2d(films: Path) -> Path:
    return save_pretrained(films / "g2d")


def config_of(films: Path, *overrides: str) -> Config:
    return load_config(films / "recipe.yaml", overrides)


def task_of(films: Path, *overrides: str) -> tuple[ClassifyLearner, Any, Any]:
    """A task, the training labels, and a batch of all of them, unaugmented."""
    config = config_of(films, *overrides)
    labels = class_labels(load_manifest(config.data.manifest).split("train"), CLASSES, config.classify)
    dataset = ClassDataset(labels, config.data, seed=0, train=False)
    task = ClassifyLearner(config, build_classifier(config, 2).eval(), CLASSES, pooled=False)
    return task, labels, collate([dataset[i] for i in range(len(dataset))])


def test_the_command_line_from_a_pretrained_encoder_to_curves(films: Path, g2d: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "linear", tmp_path / "test"
    words = ["classify.mode=linear", "data.views=[PA]", "train.lr=0.05", f"init={g2d}"]
    done = medvl("train", films / "recipe.yaml", *words, "--out", run)
    assert done.returncode == 0, done.stderr
    assert "1 records of other views" in done.stderr and "2 are the network's own" in done.stderr
    tensors, start = load_file(str(run / "model" / "model.safetensors")), load_file(str(g2d / "model.safetensors"))
    encoder = [name for name in tensors if name.startswith("encoder.")]
    assert len(encoder) == len(tensors) - 2
    assert all(torch.equal(tensors[name], start["unet." + name]) for name in encoder)
    plan = json.loads((run / "plan.json").read_text())
    assert plan["class_labels"]["train"]["per_class"]["bar"] == {"positive": 12, "negative": 9, "unknown": 2}
    assert plan["parameters"] == tensors["head.weight"].numel() + 2

    done = medvl("evaluate", run, films / "manifest.csv", "--split", "test", "--update-card", "--json", "--out", out)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary == json.loads((out / "summary.json").read_text())
    assert summary["threshold_source"].startswith("val") and set(summary["threshold"]) == set(CLASSES)
    assert summary["num_cases"] == 12 and summary["class_counts"]["bar"]["unknown"] == 1
    assert summary["config"]["train"]["seed"] == 0 and len(summary["split_hash"]) == 64 and summary["versions"]["medvl"]
    for name in ("roc", "pr", "reliability", "confusion"):
        assert (out / f"{name}.svg").read_text().startswith("<svg ")
    rows = list(csv.DictReader((out / "cases.csv").open()))
    assert list(rows[0]) == ["id", "patient", "split", "prob_bar", "prob_disc", "label_bar", "label_disc"]
    assert [row["label_bar"] for row in rows].count("") == 1
    known = [row for row in rows if row["label_bar"]]
    score, label = [float(row["prob_bar"]) for row in known], [float(row["label_bar"]) for row in known]
    assert summary["by_class"]["bar"]["auc"]["mean"] == pytest.approx(auc(score, label))
    log = [json.loads(line) for line in (run / "test_log.jsonl").read_text().splitlines()]
    assert len(log) == 1 and log[0]["metrics"]["macro_auc"] == summary["metrics"]["macro_auc"]["mean"]
    card = (run / "model" / "card.md").read_text()
    assert "test split opened: 1 time(s)" in card and "test: macro_auc" in card and "Dice" not in card

    with refused("conflict"):
        evaluate(str(run), films / "manifest.csv", surface=False, probe=True)
    path, summary = make_report(run, films / "manifest.csv")
    assert path == run / "report" / "val" / "report.html"
    page = path.read_text()
    assert "<script" not in page and "<img" not in page and "http" not in page.replace("http://www.w3.org", "")
    area = summary["by_class"]["bar"]["auc"]["mean"]
    assert f"AUC {area:.3f}" in page and "not a medical device" in page and "the left lung" not in page
    stored = (run / "report" / "val" / "summary.json").stat().st_mtime_ns
    make_report(run, films / "manifest.csv", out=tmp_path / "again.html")
    assert (run / "report" / "val" / "summary.json").stat().st_mtime_ns == stored  # not evaluated anew
    with refused("conflict", naming="threshold"):
        make_report(run, threshold=0.3)


def test_a_linear_run_goes_on_as_a_finetuned_one_and_thresholds_come_from_val(films: Path, tmp_path: Path) -> None:
    linear, tuned = tmp_path / "linear", tmp_path / "tuned"
    train(config_of(films, "classify.mode=linear"), linear)
    train(config_of(films, f"init={linear}", "train.epochs=4"), tuned)
    before, after = (load_file(str(run / "model" / "model.safetensors")) for run in (linear, tuned))
    assert not torch.equal(before["encoder.conv1.weight"], after["encoder.conv1.weight"])

    val = evaluate_classifier(tuned, films / "manifest.csv", split="val", out=tmp_path / "val", num_draws=20).summary
    best = max(line["macro_auc"] for line in logged(tuned, "val"))
    assert val["metrics"]["macro_auc"]["mean"] == pytest.approx(best)
    assert any("optimistic" in note for note in val["notes"])
    rows = list(csv.DictReader((tmp_path / "val" / "cases.csv").open()))
    test = evaluate_classifier(tuned, films / "manifest.csv", split="test", num_draws=20).summary
    for name in CLASSES:
        known = [row for row in rows if row[f"label_{name}"]]
        scores, labels = ([float(row[f"{kind}_{name}"]) for row in known] for kind in ("prob", "label"))
        assert test["threshold"][name] == pytest.approx(best_threshold(scores, labels), abs=1e-6)
        practice = test["published_practice"]["by_f1"]["by_class"][name]["f1"]
        assert practice["mean"] >= test["by_class"][name]["f1"]["mean"] and practice["lo"] <= practice["hi"]
    macro = test["published_practice"]["by_mcc"]["macro"]["mcc"]
    assert macro["lo"] <= macro["mean"] <= macro["hi"] and f"mcc {macro['mean']:.3f} [" in as_text(test, tmp_path)
    lines = (films / "manifest.csv").read_text().splitlines()  # of val only p13 keeps its bars
    few = [line for line in lines if not line.startswith(("c30,", "c31,", "c34,", "c35,"))]
    (films / "few.csv").write_text("\n".join(few) + "\n")
    page, found = make_report(tuned, films / "few.csv", out=tmp_path / "few.html")
    assert found["by_class"]["bar"]["num_positive"] == 2 and found["metrics"]["macro_auc"]["lo"] is None
    some = found["macro_with_interval"]["macro_auc"]
    assert some["classes"] == ["disc"] and some["mean"] == found["by_class"]["disc"]["auc"]["mean"]
    cut = found["published_practice"]["by_f1"]["macro_with_interval"]["f1"]
    told = as_text(found, tmp_path)
    assert f"{some['mean']:.3f} [{some['lo']:.3f}, {some['hi']:.3f}]" in told
    assert f"(1 of 2 classes: {cut['mean']:.3f} [{cut['lo']:.3f}, {cut['hi']:.3f}])" in told
    assert "of classes that have an interval" in page.read_text() and "(1 of 2 classes:" in page.read_text()
    fixed = evaluate_classifier(tuned, films / "manifest.csv", split="test", threshold=0.0, num_draws=20).summary
    assert fixed["threshold_source"] == "fixed" and fixed["by_class"]["disc"]["sensitivity"]["mean"] == 1


def test_one_of_several_classes(films: Path, tmp_path: Path) -> None:
    words = ["data.manifest=" + str(films / "one.csv"), "classify.labels=multiclass", "classify.negative_names=[]"]
    run = tmp_path / "run"
    train(config_of(films, *words, "classify.pos_weight=balanced", "train.epochs=3"), run)
    best = max(line["accuracy"] for line in logged(run, "val"))
    found = evaluate_classifier(run, films / "one.csv", split="val", out=tmp_path / "val", num_draws=20).summary
    assert found["classes"] == ["bar", "both", "clear", "disc"]
    assert found["metrics"]["accuracy"]["mean"] == pytest.approx(best)
    assert np.array(found["confusion"]).sum() == 12 and found["threshold"] is None
    assert np.trace(found["confusion"]) / 12 == pytest.approx(best)
    for name in ("mcc", "macro_average_precision", "ece"):
        assert found["metrics"][name]["lo"] <= found["metrics"][name]["hi"], name
    counts = [str(value) for row in found["confusion"] for value in row]
    pages = (tmp_path / "val" / "confusion.svg").read_text(), make_report(run, films / "one.csv")[0].read_text()
    for page in pages:
        assert re.findall(r">\s*(\d+)\s*</text>", page)[-16:] == counts
    with refused("conflict"):
        evaluate_classifier(run, films / "one.csv", threshold=0.5)
    with refused("malformed"):
        evaluate_classifier(run, films / "manifest.csv")


@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_interrupted_and_resumed_is_the_same(films: Path, tmp_path: Path, mode: str) -> None:
    config = config_of(films, f"classify.mode={mode}", "model.options.dropout=0.2")
    check_resumed(config, tmp_path)


def test_features_are_computed_once_and_are_those_of_the_encoder(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    pool = ImageClassifier.pool

    def counted(self: ImageClassifier, image: torch.Tensor) -> torch.Tensor:
        assert not self.encoder.training
        seen.append(len(image))
        return pool(self, image)

    monkeypatch.setattr(ImageClassifier, "pool", counted)
    train(config_of(films, "classify.mode=linear", "train.epochs=3"), tmp_path / "run")
    assert 36 < sum(seen) <= 36 + 2 * (2 + 4) + 36  # 24 of train and 12 of val, whatever the epochs; and the estimate's
    task, _, batch = task_of(films)
    with torch.no_grad():
        features = task.module.network.pool(batch.image)
        assert torch.equal(task.module(batch.image), task.module(features[:, :, None, None], True))


def test_missing_labels_carry_no_loss(films: Path) -> None:
    task, _, batch = task_of(films)
    assert torch.isnan(batch.target).any()
    logits = task.module(batch.image).detach().requires_grad_()
    target = batch.target.flatten(1)
    known = ~torch.isnan(target)
    top, bottom = label_loss(logits, target, multiclass=False)
    (top / bottom).backward()
    expected = F.binary_cross_entropy_with_logits(logits.detach()[known], target[known])
    assert float((top / bottom).detach()) == pytest.approx(float(expected))
    assert float(task.training_step(batch)["loss"].detach()) == pytest.approx(float(expected))
    assert logits.grad is not None
    assert (logits.grad[~known] == 0).all() and (logits.grad[known] != 0).all()


def test_one_label_each_is_the_usual_cross_entropy() -> None:
    logits, index = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 0, 1])
    weight = torch.tensor([0.5, 1.0, 3.0])
    target = F.one_hot(index, 3).float()
    for w in (None, weight):
        top, bottom = label_loss(logits, target, multiclass=True, weight=w)
        assert float(top / bottom) == pytest.approx(float(F.cross_entropy(logits, index, weight=w)), rel=1e-5)
    target[1] = math.nan
    top, bottom = label_loss(logits, target, multiclass=True)
    assert float(top / bottom) == pytest.approx(float(F.cross_entropy(logits[[0, 2, 3, 4, 5]], index[[0, 2, 3, 4, 5]])))


def test_balanced_weights_make_both_kinds_weigh_the_same(films: Path) -> None:
    _, labels, _ = task_of(films)
    balanced = class_weights(labels, multiclass=False)
    for k, count in enumerate(labels.per_class().values()):
        assert balanced[k] * count["positive"] == pytest.approx(count["negative"])
    words = ("classify.labels=multiclass", "classify.negative_names=[]")
    rows, classes = load_manifest(films / "one.csv").split("train"), ("clear", "bar", "disc", "both")
    one = class_labels(rows, classes, config_of(films, *words).classify)
    assert class_weights(one, multiclass=True).tolist() == pytest.approx([1, 1, 1, 1])  # six images each


def test_validation_counts_an_image_once_however_often_ranks_repeat_it(films: Path) -> None:
    task, labels, batch = task_of(films)
    values = []
    for times in (1, 3):
        totals: dict[str, torch.Tensor] = {}
        for _ in range(times):
            with torch.no_grad():
                for name, value in task.validation_step(batch).items():
                    totals[name] = totals.get(name, torch.tensor(0.0)) + value
        values.append(task.validation_values(totals))
    assert values[0] == pytest.approx(values[1])
    with torch.no_grad():
        logits = task.module(batch.image).numpy()
    expected = np.mean([auc(logits[:, k], labels.values[:, k]) for k in range(2)])
    assert values[0]["macro_auc"] == pytest.approx(expected)


def test_the_loss_of_what_ranks_repeat_is_not_counted(films: Path) -> None:
    task, _, batch = task_of(films)
    repeated = torch.arange(len(batch.ids)) < 2
    with torch.no_grad():
        whole, part = task.validation_step(batch), task.validation_step(replace(batch, repeated=repeated))
        rest = task.validation_step(replace(batch, image=batch.image[2:], target=batch.target[2:], repeated=None))
    assert float(whole["num"]) > float(part["num"]) == float(rest["num"])
    assert float(part["loss_sum"]) == pytest.approx(float(rest["loss_sum"]), rel=1e-5)


@pytest.mark.parametrize("encoder", ["resnet18_nano", "resnet18"])
def test_it_starts_from_another_programs_weights(films: Path, tmp_path: Path, encoder: str) -> None:
    source = ImageClassifier(encoder, in_channels=1).encoder
    torch.save(source.state_dict(), tmp_path / "encoder.pth")
    words = [f"model.encoder={encoder}", f"init=weights:{tmp_path / 'encoder.pth'}", "train.max_steps=1"]
    train(config_of(films, "classify.mode=linear", *words), tmp_path / "run")
    tensors = load_file(str(tmp_path / "run" / "model" / "model.safetensors"))
    assert all(torch.equal(tensors["encoder." + name], value) for name, value in source.state_dict().items())


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (("semi.epi=labels",), "unknown_key"), (("text.encoder=builtin",), "conflict"),
        (("train.freeze_encoder=true",), "conflict"), (("model.name=lvit",), "conflict"),
        (("fidelity=paper",), "conflict"), (("model.options.size=3",), "unknown_key"),
        (("model.options.dropout=2",), "out_of_range"), (("classify.classes=[disk]",), "unknown"),
        (("classify.labels=multiclass",), "conflict"),
        (("classify.labels=multiclass", "classify.negative_names=[]"), "malformed"),
        (("init=weights:nowhere.pth",), "missing_file"), (("data.views=[XX]",), "empty"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_the_run_folder_is_made(
    films: Path, tmp_path: Path, overrides: tuple[str, ...], kind: str
) -> None:
    with refused(kind):
        train(config_of(films, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_init_of_other_classes_or_another_encoder_is_refused(films: Path, g2d: Path, tmp_path: Path) -> None:
    train(config_of(films, "classify.mode=linear", "train.max_steps=1"), tmp_path / "run")
    with refused("mismatch", naming="init"):
        train(config_of(films, "classify.classes=[bar]", f"init={tmp_path / 'run'}"), tmp_path / "next")
    with refused("mismatch", naming="model.encoder=resnet18_nano"):
        train(config_of(films, "model.encoder=resnet18_mini", f"init=g2d:{g2d}"), tmp_path / "next")
    with refused("unsupported", naming="encoder"):
        train(config_of(films, "init=g2d:medvl:lvit_regions"), tmp_path / "next")
    run = train(config_of(films, "classify.classes=[bar]", f"init=g2d:{tmp_path / 'run'}"), tmp_path / "encoder alone")
    assert "2 are the network's own" in json.loads((run / "plan.json").read_text())["init"]
    with refused("unsupported"):
        evaluate_classifier(g2d, films / "manifest.csv")
    with refused("unsupported"):
        Predictor.load(tmp_path / "run").set_image(films / "0.png").segment("disc")


def test_a_val_split_of_one_kind_has_no_auc_to_choose_by(films: Path, tmp_path: Path) -> None:
    text = (films / "manifest.csv").read_text().splitlines()
    kept = [line for line in text if ",val," not in line or ",clear," in line]
    manifest = films / "one_kind.csv"
    manifest.write_text("\n".join(kept) + "\n")
    with refused("empty"):
        train(config_of(films, f"data.manifest={manifest}"), tmp_path / "run")
    train(config_of(films, f"data.manifest={manifest}", "train.choose_by=loss"), tmp_path / "run", dry_run=True)


def test_a_fraction_is_said_in_the_plan(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data.label_fraction=0.5", "classify.classes=[disc]", "classify.pos_weight=balanced"]
    train(config_of(films, *words), tmp_path / "run", dry_run=True)
    told = capsys.readouterr().err
    assert "50%: 12 images of 6 patients (draw 0), 12 images left out" in told
    assert "labels that are no class: bar" in told and "(classify.pos_weight)" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["linear", "finetune"])
def test_two_processes_train_to_the_weights_of_one(films: Path, tmp_path: Path, mode: str) -> None:
    """Half a batch each; the labels that are missing are not spread evenly over them."""
    words = [f"classify.mode={mode}", "train.epochs=1", "data.augment.scheme=none", "train.warmup_steps=0"]
    one, two = check_two_processes(films / "recipe.yaml", tmp_path, *words)
    assert torch.allclose(one["module.network.head.weight"], two["module.network.head.weight"], atol=1e-4)
    val = [logged(tmp_path / str(num))[-1] for num in (1, 2)]
    assert val[0]["macro_auc"] == pytest.approx(val[1]["macro_auc"])
