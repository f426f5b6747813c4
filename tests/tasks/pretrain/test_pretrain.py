"""G2D pre-training through the real command line and through its task, on phantoms drawn here."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from faults import refused
from PIL import Image
from runs import check_resumed, logged, medvl, medvl_process, save_backbone, weights, without_draws
from torch import Tensor

from medvl.config import Config, TrainConfig, load_config, make_config
from medvl.core.errors import DivergedError
from medvl.data.dataset import Batch, SegmentDataset, collate
from medvl.data.records import load_manifest, write_manifest
from medvl.data.sampler import LengthSampler
from medvl.data.text_input import TextInput
from medvl.evaluation.request import EvaluationRequest, run_request
from medvl.experiments.localise import as_text, localisation
from medvl.inference.model_folder import load_model
from medvl.losses.contrastive import info_nce, retrieval
from medvl.tasks.pretrain import learner as pretrain
from medvl.tasks.pretrain.data import _grid_line
from medvl.tasks.pretrain.grounding import grounding
from medvl.tasks.pretrain.learner import PretrainLearner
from medvl.tasks.pretrain.model import build_g2d_model
from medvl.train.run import precision_of, train
from medvl.train.schedule import learning_rate


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms: a bright disc in one of six places, which the text names. 24 train, 8 val; two lateral films."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    rows = ["id,image,text,mask,patient,split,view"]
    for i in range(32):
        side, zone = rng.integers(2), rng.integers(3)
        centre = (14 + 18 * zone, 18 if side == 0 else 46)
        disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 60
        pixels = rng.normal(90, 12, y.shape) + 80 * disc
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        Image.fromarray((disc * 255).astype(np.uint8)).save(folder / f"{i}_m.png")
        place = f"{('Upper', 'Middle', 'Lower')[zone]} {('right', 'left')[side]}"
        text = f"{place} lung opacity." + " No effusion." * (i % 3)
        split = "train" if i < 24 else "val"
        rows.append(f'c{i},{i}.png,"{text}",{i}_m.png,p{i},{split},{"L" if i in (3, 30) else "PA"}')
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    common = (
        "data: {manifest: manifest.csv, laterality: patient, image_size: [64, 64], in_channels: 1}\n"
        "train: {epochs: 2, batch_size: 8, lr: 1.0e-3, warmup_steps: 2, val_every: 1, accelerator: cpu}\n"
        "text: {dim: 32}\n"
    )
    (folder / "recipe.yaml").write_text(
        f"{common}task: pretrain\nmodel: {{size: nano, options: {{projection_dim: 32}}}}\n"
        "pretrain: {warmup_steps: 2, num_panels: 2}\n"
    )
    (folder / "segment.yaml").write_text(f"{common}model: {{size: nano}}\n")
    return folder


def config_of(pairs: Path, *overrides: str, recipe: str = "recipe.yaml") -> Config:
    return load_config(pairs / recipe, overrides)


def task_of(config: Config) -> tuple[PretrainLearner, Batch]:
    """A task past its warm-up, and one batch."""
    manifest = load_manifest(config.data.manifest)
    rows = manifest.split("train")
    module, encoder = build_g2d_model(config, [row.text for row in rows])
    without_draws(module)
    task = PretrainLearner(config, module.train(), TextInput(encoder, None, True))
    task.step = config.pretrain.warmup_steps
    dataset = SegmentDataset(rows, (), config.data, seed=0, train=True, body=True)
    return task, collate([dataset[(0, i)] for i in range(8)])


def grads(task: PretrainLearner) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in task.module.named_parameters() if p.grad is not None}


def test_embeddings_that_are_not_finite_name_their_pairs(pairs: Path) -> None:
    task, _ = task_of(config_of(pairs))
    one, broken = torch.ones(3, 4), torch.ones(3, 4)
    broken[1, 2] = float("inf")
    task._pairs, task._ids, task._texts = [(one, broken)], ["a", "b", "c"], ["x", "y", "z"]
    with pytest.raises(DivergedError, match="1 validation pairs are not finite: b;") as caught:
        task.validation_values({})
    assert caught.value.exit_code == 1


def test_the_command_line_from_pairs_to_a_segmenter(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "g2d"
    done = medvl("train", pairs / "recipe.yaml", "data.views=[PA]", "--out", run)
    assert done.returncode == 0, done.stderr
    assert "2 records of other views take no part" in done.stderr and "distinct training texts" in done.stderr
    val = logged(run, "val")[-1]
    for name in ("i2t_r1", "t2i_r10", "chance_r5", "alignment_loss", "decoder_loss", "mean_recall"):
        assert np.isfinite(val[name]), name
    assert val["num_pairs"] == 7
    panels = json.loads((run / "panels" / "panels.json").read_text())
    assert len(panels["panels"]) == 2 and panels["contains_report_text"]
    strip = np.asarray(Image.open(run / "panels" / f"{panels['panels'][0]['id']}.png"))
    assert panels["panels"][0]["tiles"] == ["image", "attention", "body", "raw mask", "mask", "decoder"]
    assert strip.shape[2] == 3 and strip.shape[1] > 6 * strip.shape[0] * 0.9

    found = medvl("x", "localise", run, pairs / "manifest.csv", "--split", "val", "--json", "--out", tmp_path / "where")
    assert found.returncode == 0, found.stderr
    summary = json.loads(found.stdout)
    assert set(summary["methods"]) == {"attention", "pseudo mask", "decoder", "shuffled", "chance"}
    assert summary["num_cases"] == 8 and (tmp_path / "where" / "cases.csv").is_file()
    assert set(summary["by_split"]) == {"val"} and summary["by_split"]["val"]["methods"] == summary["methods"]
    manifest = load_manifest(pairs / "manifest.csv")
    of_all = localisation(str(run), manifest, split="all", target="mask", out=tmp_path).summary
    by_split = of_all["by_split"]
    assert {name: own["num_cases"] for name, own in by_split.items()} == {"train": 24, "val": 8}
    rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
    for name, own in by_split.items():
        scores = [float(row["dice"]) for row in rows if (row["split"], row["method"]) == (name, "pseudo mask")]
        assert own["methods"]["pseudo mask"]["dice"]["mean"] == pytest.approx(np.mean(scores))
        assert own["differences"].keys() == of_all["differences"].keys() and own["num_patients"] == own["num_cases"]
    assert "split train: 24 cases, 24 patients" in as_text(of_all) and "split train" not in as_text(summary)

    seg = tmp_path / "seg"
    words = ["model.name=encoder_unet", "text.encoder=none", "train.epochs=1"]
    done = medvl("train", pairs / "segment.yaml", *words, f"init={run}", "train.freeze_encoder=true", "--out", seg)
    assert done.returncode == 0, done.stderr
    assert "tensors taken over, 0 are the network's own" in done.stderr
    started = []
    for prefix in ("", "g2d:"):  # the same, whichever is written
        made = tmp_path / f"from {prefix.strip(':')}"
        start = [f"init={prefix}{run}", "init_parts=encoder", "train.max_steps=1"]
        train(config_of(pairs, *words, *start, recipe="segment.yaml"), made)
        started.append(load_model(made)[0].state_dict())
    assert started[0].keys() == started[1].keys()
    assert all(torch.equal(value, started[1][name]) for name, value in started[0].items())
    before, after = weights(run), weights(seg)
    for name in ("encoder.conv1.weight", "encoder.bn1.running_mean"):
        assert torch.equal(after[f"module.network.{name}"], before[f"module.network.unet.{name}"])
    assert not torch.equal(after["module.network.outc.weight"], before["module.network.unet.outc.weight"])


def test_interrupted_and_resumed_is_the_same(pairs: Path, tmp_path: Path) -> None:
    check_resumed(config_of(pairs), tmp_path)


@pytest.mark.parametrize(
    "overrides",
    [
        ("pretrain.decoder=none",), ("pretrain.decoder=reconstruction",),
        ("pretrain.decoder=pseudo_mask", "pretrain.mask.aggregate=false"), ("pretrain.shuffle_masks=true",),
        ("pretrain.mask.threshold=gmm", "pretrain.mask.smooth=none", "pretrain.mask.body_mask=false"),
        ("fidelity=released",), ("fidelity=paper",),
    ],
)  # fmt: skip
def test_the_schools_and_ablations_are_switches(pairs: Path, overrides: tuple[str, ...]) -> None:
    task, batch = task_of(config_of(pairs, *overrides))
    losses = task.backward(batch, None, lambda loss: loss.backward())
    assert losses["loss"].isfinite()
    decoder = [name for name, p in task.module.named_parameters() if ".decoder." in name]
    assert bool(decoder) == ("pretrain.decoder=none" not in overrides)
    if "fidelity=released" in overrides:
        return  # of 2x2 cells none is above the 85th percentile: no target (see below)
    assert all(grads(task)[name].abs().sum() > 0 for name in decoder if name.endswith("conv1.weight"))


def test_masks_that_are_no_target_are_counted_and_told(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 2x2 cells none is above the 85th percentile: the decoder learns nothing, and its loss is not a perfect 0."""
    train(config_of(pairs, "fidelity=released", "train.max_steps=3"), tmp_path / "released")
    assert "none of the 8 pseudo masks of the validation pairs is a target" in capsys.readouterr().err
    train(config_of(pairs, "train.max_steps=3"), tmp_path / "ours")
    none, all_of_them = (
        [row for row in map(json.loads, (tmp_path / name / "metrics.jsonl").open()) if "valid_masks" in row]
        for name in ("released", "ours")
    )
    assert none and all(row["valid_masks"] == 0 and "decoder_loss" not in row for row in none)
    assert all_of_them and all(row["valid_masks"] > 0 and row["decoder_loss"] > 0 for row in all_of_them)


def test_a_grid_too_coarse_for_its_images_is_said(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, _ = build_g2d_model(config_of(pairs), ["Opacity."] * 3)
    fine, _ = build_g2d_model(config_of(pairs, "model.options.pool_stride=8"), ["Opacity."] * 3)
    assert _grid_line(module.network) == "  grid   2 x 2 cells of attention"
    assert "only 2 x 2 cells" in capsys.readouterr().err
    assert _grid_line(fine.network) == "  grid   8 x 8 cells of attention" and not capsys.readouterr().err


def test_a_decoder_that_is_never_reached_is_told(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config_of(pairs, "pretrain.warmup_steps=6"), tmp_path / "run")
    assert "decoder is never trained: pretrain.warmup_steps is 6, of 6 steps" in capsys.readouterr().err
    train(config_of(pairs, "pretrain.warmup_steps=5"), tmp_path / "other")
    assert "never trained" not in capsys.readouterr().err


def test_equal_texts_do_not_fill_a_batch(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bucketed by length, pairs of three sentences would have no negatives: they are mixed, and it is said."""
    rows = list(csv.DictReader((pairs / "manifest.csv").open()))
    for i, row in enumerate(rows):
        row["image"], row["mask"] = str(pairs / row["image"]), str(pairs / row["mask"])
        row["text"] = "Opacity" + " in the lung" * (i % 3) + "."
    write_manifest(tmp_path / "few.csv", rows, list(rows[0]))
    words = [f"data.manifest={tmp_path / 'few.csv'}", "train.max_steps=1"]
    train(config_of(pairs, *words), tmp_path / "few")
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(r"a pair would have [01]\.\d negatives instead of [45]\.\d.*not bucketed", told)
    negatives = json.loads((tmp_path / "few" / "plan.json").read_text())["pairs"]["negatives"]
    assert re.search(r"on average [45]\.\d of them are of another text and patient", negatives)
    train(config_of(pairs, *words, "pretrain.same_is_no_negative=false"), tmp_path / "all")
    assert "bucketed" not in capsys.readouterr().err  # all are negatives


def test_lvit_is_fed_as_the_pre_training_was(pairs: Path, tmp_path: Path) -> None:
    train(config_of(pairs, "model.size=ucnn_nano", "train.max_steps=1"), tmp_path / "g2d")
    words = ["model.name=lvit", f"init=g2d:{tmp_path / 'g2d'}", "train.max_steps=1"]
    with refused("mismatch", naming="data.normalize=zscore"):
        train(config_of(pairs, *words, "data.normalize=none", recipe="segment.yaml"), tmp_path / "lvit")


def test_in_the_warm_up_the_decoder_is_not_run(pairs: Path) -> None:
    task, batch = task_of(config_of(pairs))
    task.step = 0
    losses = task.backward(batch, None, lambda loss: loss.backward())
    assert set(losses) == {"loss", "vla_loss"}
    assert not any(".decoder." in name for name in grads(task))


def test_evidence_follows_the_text_where_attention_does_not(pairs: Path) -> None:
    maps = {}
    for source in ("attention", "evidence"):
        task, batch = task_of(config_of(pairs, f"pretrain.mask.source={source}"))
        task.module.eval()
        other = replace(batch, texts=(*batch.texts[1:], "No opacity of either lung."))
        maps[source] = [task.mask_of(*task.forward(b), b).attention_map for b in (batch, other)]
    assert torch.equal(*maps["attention"])
    assert not torch.allclose(*maps["evidence"])
    assert not torch.allclose(maps["attention"][0], maps["evidence"][0])


def test_results_of_something_else_are_not_written_over(pairs: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    train(config_of(pairs, "train.max_steps=1"), run)
    words = ["x", "localise", run, pairs / "manifest.csv", "--out", out]
    assert medvl(*words).returncode == 0
    before = (out / "summary.json").read_bytes()
    assert medvl(*words).returncode == 0  # the same again
    other = [
        (*words, "--split", "train"),
        ("ground", run, pairs / "manifest.csv", "--out", out),
        ("classify", run, pairs / "manifest.csv", "--out", out),
    ]
    for command, said in zip(other, ("split val", "localise", "localise"), strict=True):
        done = medvl(*command)
        assert done.returncode == 2 and "holds other results" in done.stderr and said in done.stderr, done.stderr
    assert (out / "summary.json").read_bytes() == before


def test_one_verb_evaluates_a_pre_training(pairs: Path, tmp_path: Path) -> None:
    """By texts where the manifest has masks, by prompts where classes are asked for."""
    run, manifest = tmp_path / "run", load_manifest(pairs / "manifest.csv")
    train(config_of(pairs, "train.max_steps=1"), run)
    request = EvaluationRequest(str(run), pairs / "manifest.csv", out=tmp_path / "one", options={"sigma": 0.5})
    summary, _ = run_request(request)
    same = grounding(str(run), manifest, target="mask", sigma=0.5, out=tmp_path / "two")
    assert summary["evaluation"] == "ground" and summary["metrics"] == same.summary["metrics"]
    assert (tmp_path / "one" / "cases.csv").read_bytes() == (tmp_path / "two" / "cases.csv").read_bytes()
    prompted, _ = run_request(replace(request, out=tmp_path / "three", options={"classes": ["opacity"]}))
    assert prompted["evaluation"] == "zero-shot classify" and list(prompted["prompts"]) == ["opacity"]
    for wrong in ({"probe": True}, {"sigma": 1.0, "classes": ["opacity"]}):
        with refused("conflict"):
            run_request(replace(request, out=tmp_path / "four", options=wrong))


def test_where_the_evidence_is_needs_the_reports(pairs: Path, tmp_path: Path) -> None:
    words = ["pretrain.mask.source=evidence", "pretrain.mask.threshold=p95"]
    run = tmp_path / "run"
    train(config_of(pairs, *words, "train.max_steps=3"), run)
    tiles = json.loads((run / "panels" / "panels.json").read_text())["panels"][0]["tiles"]
    assert tiles == ["image", "evidence", "body", "raw mask", "mask", "decoder"]
    manifest = load_manifest(pairs / "manifest.csv")
    summary = localisation(str(run), manifest, split="val", target="mask").summary
    assert set(summary["methods"]) == {"evidence", "pseudo mask", "decoder", "shuffled", "chance"}
    rows = list(csv.DictReader((pairs / "manifest.csv").open()))
    for row in rows:
        row["image"], row["mask"] = str(pairs / row["image"]), str(pairs / row["mask"])
        row["report"] = row["text"]
        row["text"] = "" if row["id"] == "c25" else row["text"]
    write_manifest(tmp_path / "silent.csv", rows, list(rows[0]))
    found = medvl("x", "localise", run, tmp_path / "silent.csv")
    assert found.returncode == 2 and "c25" in found.stderr and "--text-column" in found.stderr
    found = medvl("x", "localise", run, tmp_path / "silent.csv", "--text-column", "report", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["methods"] == summary["methods"]


@pytest.mark.parametrize("accumulate", [1, 3], ids=["whole batch", "cached parts"])
def test_shuffled_masks_are_those_of_other_images(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    """What the decoder is trained against, step after step: every mask of the batch once, never an image's own."""
    words = ("pretrain.shuffle_masks=true", f"pretrain.accumulate={accumulate}", "model.options.pool_stride=8")
    task, batch = task_of(config_of(pairs, *words))
    task.module.eval()  # so that the parts' attention is that of the batch
    batch = replace(batch, body=batch.body.clone())  # type: ignore[union-attr]
    batch.body[5] = False  # type: ignore[index]  # an image without a target: it goes with its place
    with torch.no_grad():
        output, vectors = task.forward(batch)
        own = task.mask_of(output, vectors, batch)
    assert all(not torch.equal(own.mask[i], own.mask[j]) for i in range(8) for j in range(i)), "masks tell images apart"
    given: list[tuple[Tensor, Tensor]] = []
    kept = pretrain.pixel_alignment_loss

    def seen(logits: Tensor, mask: Tensor, valid: Tensor, **options: Any) -> dict[str, Tensor]:
        given.append((mask, valid))
        return kept(logits, mask, valid, **options)

    monkeypatch.setattr(pretrain, "pixel_alignment_loss", seen)
    orders = set()
    for step in range(task.step, task.step + 6):
        task.step = step
        given.clear()
        task.backward(batch, None, lambda loss: loss.backward())
        mask, valid = (torch.cat(side) for side in zip(*given, strict=True))
        order = [next(j for j in range(8) if torch.equal(mask[i], own.mask[j])) for i in range(8)]
        assert sorted(order) == list(range(8)) and all(i != j for i, j in enumerate(order))
        assert valid[:, 0].tolist() == [j != 5 for j in order]
        orders.add(tuple(order))
    assert len(orders) > 1
    with refused("ambiguous"):
        task._shuffled(own.mask[:1], own.valid[:1])


@pytest.mark.parametrize(
    "overrides",
    [
        ("pretrain.decoder=none",), ("pretrain.decoder=reconstruction",), ("pretrain.decoder=pseudo_mask",),
        ("pretrain.mask.source=evidence", "model.options.pool_stride=8"),
        ("pretrain.shuffle_masks=true", "pretrain.decoder_loss=released"),
    ],
    ids=str,
)  # fmt: skip
def test_cached_parts_have_the_gradients_of_the_whole_batch(pairs: Path, overrides: tuple[str, ...]) -> None:
    """BatchNorm in eval mode: with batch statistics the parts differ from the whole, which is said.

    Parts of 3, 3 and 2 pairs, of which 2, 3 and 1 have a target.
    """
    results = []
    for accumulate in (1, 3):
        task, batch = task_of(config_of(pairs, f"pretrain.accumulate={accumulate}", *overrides))
        assert batch.body is not None
        batch.body[[1, 7]] = False
        task.module.eval()
        if task.text.encoder is not None:
            task.text.encoder.eval()
        losses = task.backward(batch, None, lambda loss: loss.backward())
        results.append((losses, grads(task)))
    (whole, g1), (parts, g2) = results
    assert parts.keys() == whole.keys() and g1.keys() == g2.keys()
    for name, value in whole.items():
        assert float(parts[name]) == pytest.approx(float(value), abs=1e-5), name
    worst = max(float((g1[name] - g2[name]).abs().max() / (g1[name].abs().max() + 1e-6)) for name in g1)
    assert worst < 1e-4


def test_micro_parts_have_their_own_negatives(pairs: Path) -> None:
    """Parts of 3, 3 and 2 pairs: the mean of their own losses, each part weighed by its pairs."""
    words = ("pretrain.accumulate=3", "pretrain.accumulate_mode=micro", "pretrain.decoder_weight=0.5")
    task, batch = task_of(config_of(pairs, *words))
    task.module.eval()  # else BatchNorm and dropout tell the two passes apart
    losses = task.backward(batch, None, lambda loss: loss.backward())
    found = grads(task)
    task.module.zero_grad()
    shares, parts = (3 / 8, 3 / 8, 2 / 8), pretrain._split(batch, 3)
    own = [task.training_step(part) for part in parts]
    sum((share * one["loss"] for share, one in zip(shares, own, strict=True)), torch.zeros(())).backward()
    assert [len(part.ids) for part in parts] == [3, 3, 2]
    for name, value in losses.items():
        mean = sum(w * float(one[name].detach()) for w, one in zip(shares, own, strict=True))
        assert float(value) == pytest.approx(mean)
    assert float(losses["loss"]) == pytest.approx(float(losses["vla_loss"]) + 0.5 * float(losses["decoder_loss"]))
    whole = task.training_step(batch)
    assert float(whole["vla_loss"]) > float(losses["vla_loss"]) + 0.1  # it has more negatives
    for name, gradient in grads(task).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_pairs_of_the_same_text_are_no_negatives(pairs: Path) -> None:
    task, batch = task_of(config_of(pairs))
    vectors, others = torch.randn(8, 32), torch.randn(8, 32)
    written = tuple(f"Opacity {i}." for i in range(8))
    for same, none in (
        (replace(batch, texts=("x",) * 8, source_texts=written), True),  # made the same by a flip
        (replace(batch, texts=written, source_texts=("x",) * 8), False),  # told apart by a flip
        (replace(batch, texts=written, patients=("p",) * 8), True),
    ):
        assert (float(task._align(vectors, others, same)["loss"]) < 1e-6) == none
    task, _ = task_of(config_of(pairs, "pretrain.same_is_no_negative=false"))
    assert float(task._align(vectors, others, replace(batch, texts=("x",) * 8))["loss"]) > 0.1


def test_the_alignment_follows_its_switches(pairs: Path) -> None:
    words = ("pretrain.sigma=0.5", "pretrain.vla=sum", "pretrain.same_is_no_negative=false")
    task, batch = task_of(config_of(pairs, *words))
    image, text = torch.randn(8, 32), torch.randn(8, 32)
    expected = info_nce(image, text, sigma=0.5, reduction="sum")["loss"]
    assert float(task._align(image, text, batch)["loss"]) == pytest.approx(float(expected))


def test_validation_counts_any_image_of_the_same_text_as_a_hit(pairs: Path) -> None:
    """Texts 0, 2 and 4 are one but for case and white space; pair 4 stands twice, as padded ranks have it."""
    task, _ = task_of(config_of(pairs))
    image, text = torch.randn(6, 32), torch.randn(6, 32)
    image[5], text[5] = image[4], text[4]
    task._pairs = [(image[:4], text[:4]), (image[4:], text[4:])]
    task._ids = ["a", "b", "c", "d", "e", "e"]
    task._texts = ["No mass.", "Mass.", "no  mass. ", "Nodule.", "NO MASS.", "NO MASS."]
    found = task.validation_values({})
    same = torch.tensor([[i == j or {i, j} <= {0, 2, 4} for j in range(5)] for i in range(5)])
    for name, value in retrieval(image[:5], text[:5], same).items():
        assert found[name] == pytest.approx(value), name
    assert (found["num_pairs"], found["num_texts"]) == (5, 3)
    loss = info_nce(image[:5], text[:5], same=same)["loss"]
    assert found["alignment_loss"] == pytest.approx(float(loss))
    assert not task._pairs and not task._ids and not task._texts


def test_length_sampler_is_a_function_of_seed_and_epoch() -> None:
    lengths = list(np.random.default_rng(0).integers(3, 60, 100))

    def batches(epoch: int, **place: int) -> list[list[int]]:
        sampler = LengthSampler(lengths, 8, seed=1, **place)
        sampler.epoch = epoch
        assert len(list(sampler)) == len(sampler)
        return [[i for _, i in batch] for batch in sampler]

    first = batches(0)
    assert first == batches(0) != batches(1)
    assert len({i for batch in first for i in batch}) == 96  # the rest of 4 that fills no batch waits
    spread = np.mean([np.ptp([lengths[i] for i in batch]) for batch in first])
    assert spread < 20 < np.ptp(lengths)
    halves = (LengthSampler(lengths, 4, seed=1, rank=rank, world_size=2) for rank in range(2))
    together = [sorted(i for _, i in a + b) for a, b in zip(*halves, strict=True)]
    assert together == [sorted(batch) for batch in first]  # the same batches, whatever the number of ranks


def test_the_mask_of_a_padded_image_lies_where_the_attention_is(pairs: Path) -> None:
    """40 px are padded to 64, which the 2 x 2 cells lie over: the first one ends at 32 px."""
    words = ("data.image_size=[40,40]", "pretrain.mask.upsample=nearest", "pretrain.mask.smooth=none")
    task, batch = task_of(config_of(pairs, *words))
    with torch.no_grad():
        output, _ = task.module(batch.image, *task.text(batch.texts, batch.image.device))
        attention = torch.zeros_like(output.attention)
        attention[:, :, 1] = 1
        whole = replace(batch, body=torch.ones(8, 40, 40).bool())
        made = task.mask_of(output._replace(attention=attention), None, whole)
    assert output.grid == (2, 2) and output.mask_logits.shape == (8, 1, 40, 40)
    expected = torch.zeros(40, 40)
    expected[:32, :32] = 1
    assert torch.equal(made.attention_map, expected.expand(8, 1, 40, 40))


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (("semi.epi=labels",), "unknown_key"), (("model.options.size=3",), "unknown_key"),
        (("model.options.nonsense=3",), "unknown_key"), (("text.encoder=none",), "missing"),
        (("model.options.pool=average",), "conflict"),
        (("pretrain.mask.source=evidence", "pretrain.mask.domain=image"), "conflict"),
        (("train.batch_size=30",), "empty"), (("train.batch_size=1",), "empty"),
        (("pretrain.accumulate=5",), "empty"),
        (("pretrain.accumulate=100", "pretrain.accumulate_mode=micro"), "empty"),
        (("model.options.heads=many",), "out_of_range"), (("model.options.projection_dim=0",), "out_of_range"),
        (("data.image_size=[0,64]",), "out_of_range"), (("train.max_steps=0",), "out_of_range"),
        (("data.views=[XX]",), "empty"), (("data.laterality=null",), "missing"),
        (("pretrain.shuffle_masks=true", "pretrain.decoder=none"), "conflict"),  # it would do nothing
        (("pretrain.mask.soft=true", "pretrain.mask.smooth=none"), "conflict"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_the_run_folder_is_made(
    pairs: Path, tmp_path: Path, overrides: tuple[str, ...], kind: str
) -> None:
    with refused(kind):
        train(config_of(pairs, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pairs_that_nothing_tells_apart_are_refused(pairs: Path, tmp_path: Path) -> None:
    table = pd.read_csv(pairs / "manifest.csv")
    for name, column, value in (("text", "text", "No finding."), ("patient", "patient", "p")):
        same = table.assign(**{column: [f"{value}{split}" for split in table.split]})
        same.to_csv(pairs / f"one_{name}.csv", index=False)
    with refused("empty", naming="one_text.csv"):
        train(config_of(pairs, f"data.manifest={pairs / 'one_text.csv'}"), tmp_path / "run")
    one_patient = f"data.manifest={pairs / 'one_patient.csv'}"
    with refused("empty", naming="same_is_no_negative"):
        train(config_of(pairs, one_patient), tmp_path / "run")
    for word in ("pretrain.same_is_no_negative=false", "pretrain.decoder=reconstruction"):
        with refused("empty"):  # past that check; words of one patient are not learned
            train(config_of(pairs, one_patient, word), tmp_path / "run", dry_run=True)


def test_auto_precision_is_mixed_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = TrainConfig(precision="auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precision_of(auto) == "32-true"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has_bf16, mixed in ((True, "bf16-mixed"), (False, "16-mixed")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda value=has_bf16, **_: value)
        assert precision_of(auto) == mixed
        assert precision_of(replace(auto, accelerator="cpu")) == "32-true"
        assert precision_of(replace(auto, precision="32-true")) == "32-true"
    recipe = Path(__file__).resolve().parents[3] / "recipes" / "g2d.yaml"
    assert load_config(recipe).train.precision == "auto"


def test_presets_of_g2d() -> None:
    released = make_config({"task": "pretrain", "fidelity": "released"})
    assert released.model.name == "g2d" and released.pretrain.mask.strict and not released.pretrain.mask.body_mask
    assert released.pretrain.vla == "sum" and released.pretrain.decoder_loss == "released"
    schedule = released.train
    assert (schedule.schedule, schedule.restart_steps, schedule.warmup_steps) == ("warm_restarts", 200, 0)
    assert schedule.lr_min == 1e-8 and learning_rate(schedule, 200, 1000, 50) == learning_rate(schedule, 0, 1000, 50)
    paper = make_config({"task": "pretrain", "fidelity": "paper"})
    assert paper.pretrain.mask.smooth == "bilateral" and paper.pretrain.mask.domain == "image"


@pytest.mark.parametrize("decoder", ["none", "reconstruction"])
def test_the_other_schools_train_too_and_go_on_as_pseudo_masks(pairs: Path, tmp_path: Path, decoder: str) -> None:
    first = train(config_of(pairs, f"pretrain.decoder={decoder}", "train.epochs=1"), tmp_path / "first")
    panels = json.loads((first / "panels" / "panels.json").read_text())["panels"][0]["tiles"]
    assert ("reconstruction" in panels) == (decoder == "reconstruction") and "mask" in panels
    then = train(config_of(pairs, f"init={first}", "train.epochs=1"), tmp_path / "then")
    plan = json.loads((then / "plan.json").read_text())
    assert "taken over" in plan["init"] and ("0 are new" in plan["init"]) == (decoder == "reconstruction")


@pytest.mark.parametrize(("kind", "decoder"), [("convnext", "pseudo_mask"), ("dinov2", "none")])
def test_a_transformers_backbone_is_pre_trained(pairs: Path, tmp_path: Path, kind: str, decoder: str) -> None:
    save_backbone(tmp_path / "hf", kind)
    words = [f"model.size=hf:{tmp_path / 'hf'}", f"pretrain.decoder={decoder}", "train.epochs=1"]
    run = train(config_of(pairs, *words), tmp_path / "run")
    module = load_model(str(run))[0].eval()
    output = module.network.image_forward(torch.rand(1, 1, 64, 64))
    assert (output.mask_logits is None) == (decoder == "none")
    started, _ = build_g2d_model(config_of(pairs, *words), ["Opacity."] * 3)
    own, before = module.network.unet.encoder.state_dict(), started.network.unet.encoder.state_dict()
    assert any(not torch.equal(own[name], before[name]) for name in own)


def test_a_backbone_with_one_map_has_no_decoder(pairs: Path, tmp_path: Path) -> None:
    save_backbone(tmp_path / "hf", "dinov2")
    with refused("unsupported", naming="pretrain.decoder"):
        train(config_of(pairs, f"model.size=hf:{tmp_path / 'hf'}"), tmp_path / "run")


@pytest.mark.soak
def test_two_processes_through_the_command_line(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "two"
    words = ["train.devices=2", "train.batch_size=4", "train.epochs=1"]
    done = medvl_process("train", pairs / "recipe.yaml", *words, "--out", run)
    assert done.returncode == 0, done.stderr
    assert "of the whole batch of 8 pairs" in done.stderr
    val = logged(run)[-1]
    assert val["num_pairs"] == 8 and np.isfinite(val["alignment_loss"])
