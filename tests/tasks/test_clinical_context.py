"""Clinical variables from the manifest to the mask: the layer by itself, and both modes through the command line.

Phantoms drawn here: they prove the mechanism, not its use.
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import refused
from runs import without_draws
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from medvl.cli import app
from medvl.config import Config, load_config
from medvl.core import errors
from medvl.core.errors import InputError
from medvl.data.context import Column, ContextRules
from medvl.data.dataset import Batch, SegmentDataset, collate
from medvl.data.text_input import TextInput
from medvl.evaluation.model_inputs import open_inputs
from medvl.evaluation.text_sensitivity import text_sensitivity
from medvl.inference.model_folder import load_model, save_model
from medvl.inference.predictor import Predictor
from medvl.models.context_tokens import ContextTokens
from medvl.models.module import SegmentModel
from medvl.tasks.context import context_rules
from medvl.tasks.pretrain.learner import PretrainLearner
from medvl.tasks.pretrain.model import build_g2d_model
from medvl.tasks.pretrain.zero_shot import ZeroShot
from medvl.tasks.segment.learner import SegmentLearner
from medvl.tasks.segment.model import build_segmenter
from medvl.text.cache import FeatureCache
from medvl.train import loop
from medvl.train.run import open_manifest, train

COLUMNS = "data.context_columns=[age, sex]"
NAN = float("nan")
AGE = Column("age", "number", mean=50.0, sd=10.0, edges=(41, 47, 53, 59))
RULES = ContextRules("tokens", (AGE, Column("sex", "category", categories=("f", "m"))))


@pytest.fixture(scope="module")
def recipe(tiny_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The discs of `tiny_manifest` with an age (missing of p1) and a sex (of p9, in val, one that nobody has)."""
    folder = tmp_path_factory.mktemp("context")
    rows = list(csv.DictReader(tiny_manifest.open()))
    for row in rows:
        number = int(row["patient"][1:])
        row["age"] = "" if number == 1 else str(40 + 3 * number)
        row["sex"] = "x" if number == 9 else "MF"[number % 2]
        row |= {key: str(tiny_manifest.parent / row[key]) for key in ("image", "mask")}
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "recipe.yaml").write_text(
        "data: {manifest: manifest.csv, laterality: patient, image_size: [32, 32], in_channels: 1,"
        " phrases_per_image: 2, context_columns: [age, sex]}\n"
        "text: {dim: 32}\n"
        "model: {size: nano}\n"
        "train: {epochs: 2, batch_size: 4, warmup_steps: 2, lr: 2.0e-3, accelerator: cpu, ema_decay: 0.9}\n"
    )
    return folder / "recipe.yaml"


PRETRAIN = (
    "task=pretrain", "model.name=g2d", "data.phrases_per_image=1", "model.options={projection_dim: 32}",
    "pretrain.warmup_steps=1", "pretrain.num_panels=1", "train.ema_decay=0", "train.epochs=1", "train.batch_size=8",
)  # fmt: skip


def ready(recipe: Path, *words: str) -> tuple[SegmentLearner | PretrainLearner, Batch]:
    """A task without dropout, in training mode, and one batch of it."""
    config = load_config(recipe, words)
    manifest = open_manifest(config)
    rows = manifest.split("train")
    rules = context_rules(config, manifest, {"train": rows})
    texts = [row.text if rules is None else rules.written(row.text, row.context) for row in rows]
    task: SegmentLearner | PretrainLearner
    if config.task == "pretrain":
        pretrainer, encoder = build_g2d_model(config, texts, rules)
        task = PretrainLearner(config, pretrainer, TextInput(encoder, None, True, context=rules))
        task.step = config.pretrain.warmup_steps
        data = SegmentDataset(rows, (), config.data, seed=0, train=True, body=True)
    else:
        module, other = build_segmenter(config, 1, texts, rules)
        task = SegmentLearner(config, module, TextInput(other, None, True, context=rules))
        data = SegmentDataset(rows, ("mask",), config.data, seed=0, train=True)
    without_draws(task.module)
    return task, collate([data[(0, i)] for i in range(len(data))])


def test_each_value_is_its_columns_token_and_no_others() -> None:
    torch.manual_seed(0)
    layer = ContextTokens(RULES.num_categories, 8)
    values = torch.tensor([[0.5, 1.0], [NAN, 1.0], [0.5, NAN], [2.0, 0.0], [NAN, NAN]])
    tokens = layer(values)
    assert tokens.shape == (5, 2, 8)
    assert torch.equal(tokens[0, 1], tokens[1, 1]) and not torch.allclose(tokens[0, 0], tokens[1, 0])
    assert torch.equal(tokens[0, 0], tokens[2, 0]) and not torch.allclose(tokens[0, 1], tokens[2, 1])
    assert torch.equal(tokens[1, 0], tokens[4, 0]) and torch.equal(tokens[2, 1], tokens[4, 1])
    assert not torch.allclose(tokens[3, 0], tokens[0, 0]) and not torch.allclose(tokens[3, 1], tokens[0, 1])
    torch.testing.assert_close(tokens[4], layer.norm(layer.missing))
    tokens[4].square().mul(torch.arange(8.0)).sum().backward()
    assert layer.missing.grad is not None and layer.missing.grad.abs().sum() > 0
    assert all(p.grad is None or not p.grad.any() for p in layer.layers.parameters())  # NaN reaches no weight
    with refused("wrong_shape"):
        layer(values[:, :1])


def test_the_context_stands_in_front_whatever_the_length_of_the_text() -> None:
    layer = ContextTokens([None], 4)
    features, mask = torch.randn(2, 3, 4), torch.tensor([[True, True, True], [True, False, False]])
    joined, keep = layer.before(features, mask, torch.tensor([[1.0], [NAN]]))
    assert torch.equal(joined[:, 1:], features) and torch.equal(keep[:, 1:], mask) and keep[:, 0].all()


@pytest.mark.parametrize("words", [(), ("model.name=text_unet",), PRETRAIN], ids=["lvit", "text_unet", "g2d"])
def test_gradients_flow_into_the_token_layer(recipe: Path, words: tuple[str, ...]) -> None:
    task, batch = ready(recipe, *words)
    if words == ("model.name=text_unet",):  # its output projections start at zero, and with them these gradients
        for attend in task.module.network.attend:
            torch.nn.init.normal_(attend.proj.weight, std=0.1)
    task.backward(batch, None, lambda loss: loss.backward())  # type: ignore[no-untyped-call]
    grads = {name: p.grad for name, p in task.module.context_tokens.named_parameters()}  # type: ignore[union-attr]
    assert set(grads) == {"layers.0.0.weight", "layers.0.0.bias", "layers.0.2.weight", "layers.0.2.bias",
                          "layers.1.weight", "missing", "norm.weight", "norm.bias"}  # fmt: skip
    assert all(grad is not None and grad.isfinite().all() and grad.abs().sum() > 0 for grad in grads.values())
    missing = grads["missing"]
    assert missing is not None and not missing[1].any()  # everybody has a sex


def test_parts_of_a_batch_keep_their_own_context(recipe: Path) -> None:
    task, batch = ready(recipe, *PRETRAIN, "pretrain.decoder=none")
    task.module.eval()  # BatchNorm would see the parts
    found = []
    for num in (1, 2):
        task.module.zero_grad()
        task.config = task.config.with_section("pretrain", replace(task.config.pretrain, accumulate=num))
        task.backward(batch, None, lambda loss: loss.backward())  # type: ignore[no-untyped-call]
        layer = task.module.context_tokens
        assert isinstance(layer, ContextTokens)
        found.append({name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and "missing" in found[0]
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-3, atol=1e-6)


def test_the_network_starts_as_without_context(recipe: Path) -> None:
    """The same weights; equal logits where the tokens are masked out, and in TextUNet, which starts deaf, with any."""
    for name in ("lvit", "text_unet"):
        words = (f"model.name={name}",)
        task, batch = ready(recipe, *words)
        bare, _ = ready(recipe, *words, "data.context_columns=[]")
        own, other = task.module.network.state_dict(), bare.module.network.state_dict()
        assert own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)
        task.module.eval(), bare.module.eval()
        with torch.no_grad():
            without = bare.logits(batch)  # type: ignore[union-attr]
            all_missing = task.logits(replace(batch, context=({},) * len(batch.ids)))  # type: ignore[union-attr]
            tokens, mask = task.text(batch.texts, batch.image.device)
            values = torch.full((len(batch.ids), 2), NAN)
            features, keep = task.module.text_features(tokens, mask, values)
            assert keep is not None
            keep[:, :2] = False
            masked = task.module.network(batch.image, features, keep, batch.image_index)
        torch.testing.assert_close(masked, without, rtol=1e-4, atol=1e-5)
        assert torch.allclose(all_missing, without, rtol=1e-4, atol=1e-5) == (name == "text_unet")


def test_a_frozen_encoder_reads_no_more_texts_for_context_as_tokens(recipe: Path) -> None:
    task, batch = ready(recipe)
    encoder = task.text.encoder
    assert encoder is not None
    asked: list[list[str]] = []

    class Counting(FeatureCache):
        def features(self, texts: Any) -> tuple[Tensor, Tensor]:
            asked.append(list(texts))
            return super().features(texts)

    encoder.eval().requires_grad_(False)
    for mode, num in (("tokens", 2), ("text", 2 * 8)):
        text = TextInput(encoder, Counting(encoder), True, context=replace(RULES, mode=mode))  # type: ignore[arg-type]
        text(batch.texts, torch.device("cpu"), batch.context)
        assert len(set(asked.pop())) <= num and (mode == "text" or len(set(batch.texts)) == num)


def test_laterality_moves_the_text_and_not_the_context(recipe: Path) -> None:
    words = ("data.augment={p_flip_lr: 1.0}", "data.context_columns={kind: category}", "data.context_as=text")
    task, batch = ready(recipe, *words)  # `kind` is left or right, as a clinical variable might be
    written = task.text.written(batch.texts, batch.context)
    assert sum(a != b for a, b in zip(batch.texts, batch.source_texts, strict=True)) == len(batch.texts)
    for source, text in zip(batch.source_texts, written, strict=True):
        side = "left" if "left" in source else "right"
        assert text.startswith(f"kind {side}. ") and side not in text.partition(". ")[2]


@pytest.mark.parametrize("mode", ["tokens", "text"])
def test_the_command_line_in_both_modes(
    recipe: Path, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "_warned", set())  # each message is said once per process
    run, call = tmp_path / "run", CliRunner().invoke
    done = call(app, ["train", str(recipe), f"data.context_as={mode}", "--out", str(run)], catch_exceptions=False)
    assert done.exit_code == 0
    plan = json.loads((run / "plan.json").read_text())["context"]
    assert plan["as"] == mode and not plan["shuffled"]
    assert plan["columns"]["age"]["train"] == {"missing": 2, "unknown": 0, "records": 16}
    assert plan["columns"]["sex"]["val"] == {"missing": 0, "unknown": 2, "records": 8}
    assert f"context as {mode}" in done.output and "age: number; train 2 of 16 missing" in done.output
    assert "val 0 of 8 missing and 2 unknown" in done.output
    rules = json.loads((run / "model/context/rules.json").read_text())
    assert rules["columns"][1]["categories"] == ["f", "m"]
    assert (run / "model/context/tokens.safetensors").is_file() == (mode == "tokens")
    assert f'"as": "{mode}"' in (run / "model/card.md").read_text()
    vocabulary = (run / "model/text/encoder.json").read_text()
    assert ('"age"' in vocabulary) == (mode == "text")

    manifest, out = recipe.parent / "manifest.csv", tmp_path / "val"
    done = call(app, ["evaluate", str(run), str(manifest), "--out", str(out), "--probe"], catch_exceptions=False)
    assert done.exit_code == 0 and "2 of 32 records have a value that training did not know (x)" in done.output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["context"] == {"columns": ["age", "sex"], "as": mode, "shuffled": False}
    probe = json.loads((out / "probe.json").read_text())["conditions"]
    assert probe["other_context"]["num"] == 8
    image = str(recipe.parent / next(csv.DictReader(manifest.open()))["image"])
    words = ["predict", str(run), image, "--text", "the left lung", "--out", str(tmp_path / "masks")]
    done = call(app, words, catch_exceptions=False)
    assert done.exit_code == 0 and "taken as missing beside the prompt: age, sex" in done.output
    done = call(app, [*words, "--context", "age=50", "--context", "sex=M"], catch_exceptions=False)
    assert done.exit_code == 0 and "taken as missing" not in done.output
    assert isinstance(call(app, [*words, "--context", "age=old"]).exception, (InputError, SystemExit))

    # What is answered depends on the record's context, in the evaluation too.
    inputs = open_inputs(run)
    rows = inputs.manifest(manifest).split("val")
    twins = [rows[0], replace(rows[0], context={"age": "", "sex": "F"})]
    a, b = inputs.source.probs(twins, [rows[0].text] * 2)  # type: ignore[union-attr]
    predictor = Predictor.load(run).set_image(rows[0].image)
    np.testing.assert_allclose(predictor.segment(rows[0].text, context=twins[1].context).probs, b["mask"], atol=1e-6)
    assert np.abs(a["mask"] - b["mask"]).max() > 1e-5
    with refused("unknown", naming="crp"):
        predictor.segment("the left lung", context={"crp": "3"})


def test_the_probe_changes_the_text_or_the_context_and_not_both(recipe: Path) -> None:
    """By a source that writes down what it was asked."""
    config = load_config(recipe)
    manifest = open_manifest(config)
    asked: list[tuple[str, str, str]] = []

    class Told:
        uses_text = True

        def check(self, records: Any, classes: Any) -> None: ...
        def describe(self) -> dict[str, Any]:
            return {"model": "told"}

        def masks(self, records: Any, texts: Any) -> list[dict[str, Any]]:
            asked.extend((r.id, r.context["age"], text) for r, text in zip(records, texts, strict=True))
            return [{"mask": np.zeros((48, 40), dtype=bool)} for _ in records]

    result = text_sensitivity(Told(), manifest, split="val").summary  # type: ignore[arg-type]
    own = {row.id: row for row in manifest.split("val")}
    others = [(name, age, text) for name, age, text in asked if age != own[name].context["age"]]
    assert len(others) == len(own) == result["conditions"]["other_context"]["num"]
    assert all(text == own[name].text for name, _, text in others)
    assert len(asked) > 4 * len(own)


def test_a_manifest_without_the_columns_and_a_shuffled_one(
    recipe: Path, tmp_path: Path, tiny_manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(recipe)
    task, _ = ready(recipe)
    assert isinstance(task.module, SegmentModel)
    card = {"classes": ["mask"], "name": "x"}
    save_model(tmp_path / "model", config, ("mask",), task.module, task.text.encoder, card)
    bare = open_inputs(tmp_path / "model").manifest(tiny_manifest)
    said = capsys.readouterr().err
    assert "no column age" in said and "no column sex" in said and "taken as missing" in said
    assert bare.records[0].context == {"age": "", "sex": ""}
    shuffled = open_inputs(tmp_path / "model", ["data.context_shuffle=true"])
    records = shuffled.manifest(None).records
    own = open_inputs(tmp_path / "model").manifest(None).records
    assert [row.context for row in records] != [row.context for row in own]
    assert shuffled.source.describe()["context"]["shuffled"] is True
    broken = tmp_path / "broken.csv"
    broken.write_text(config_text := Path(config.data.manifest).read_text().replace(",52,M", ",fifty,M"))
    assert "fifty" in config_text
    with refused("malformed", naming="broken.csv:10"):
        open_inputs(tmp_path / "model").manifest(broken)


def test_what_is_saved_is_what_is_loaded(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), PRETRAIN):
        task, batch = ready(recipe, *words)
        folder = tmp_path / str(len(words))
        save_model(folder, task.config, ("mask",), task.module, task.text.encoder, {"classes": ["mask"]})
        module, encoder, _, _ = load_model(folder)
        assert module.context == task.module.context
        loaded = type(task)(task.config, module, TextInput(encoder, None, True, context=module.context))  # type: ignore[arg-type]
        task.module.eval()
        with torch.no_grad():
            if isinstance(task, PretrainLearner):
                assert torch.equal(task.forward(batch, decode=False)[1], loaded.forward(batch, decode=False)[1])  # type: ignore[union-attr]
            else:
                assert torch.equal(task.logits(batch), loaded.logits(batch))  # type: ignore[union-attr]
    model = ZeroShot.load(folder)
    assert "trained with age, sex beside its texts: they are taken as missing" in capsys.readouterr().err
    text, mask = model._text(["the left lung"], torch.device("cpu"))
    features, keep = model.module.text_features(text, mask, torch.tensor([[NAN, NAN]]))
    assert features is not None
    vector = model.module.network.text_forward(features, keep)
    torch.testing.assert_close(model.text_vectors(["the left lung"]), torch.nn.functional.normalize(vector, dim=1))


def test_a_run_is_resumed_and_continued(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(recipe)
    whole = train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        steps, plain = iter(range(99)), loop.save_state

        def killed(*args: Any) -> None:
            plain(*args)
            if next(steps) == 0:
                raise KeyboardInterrupt

        patch.setattr(loop, "save_state", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "cut")
    cut = train(None, tmp_path / "cut", resume=True)
    for name in ("model.safetensors", "context/tokens.safetensors"):
        a, b = load_file(whole / "model" / name), load_file(cut / "model" / name)
        assert all(torch.equal(a[key], b[key]) for key in a)

    def again(*words: str) -> Config:
        return load_config(recipe, [f"init={whole}", "train.epochs=1", "train.max_steps=1", "train.lr=0", *words])

    # It starts from those weights and reads as that run did, whatever the new training split is like.
    next_run = train(again("data.label_fraction=0.5", "train.ema_decay=0"), tmp_path / "next")
    a, b = (load_file(folder / "model/context/tokens.safetensors") for folder in (whole, next_run))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert (whole / "model/context/rules.json").read_text() == (next_run / "model/context/rules.json").read_text()
    with refused("mismatch", naming="data.context_as"):
        train(again("data.context_as=text"), tmp_path / "other")
    with refused("mismatch", naming="data.context_columns"):
        train(again("data.context_columns=[]"), tmp_path / "other")


def test_statistics_are_of_the_whole_training_split_whatever_is_labelled(recipe: Path) -> None:
    found = []
    for fraction in (1.0, 0.25):
        config = load_config(recipe, [f"data.label_fraction={fraction}"])
        manifest = open_manifest(config)
        found.append(context_rules(config, manifest, {"train": manifest.split("train")}))
    ages = np.array([40 + 3 * i for i in range(8) if i != 1])
    assert found[0] == found[1] and found[0] is not None
    age = found[0].columns[0]
    assert age.mean == pytest.approx(ages.mean()) and age.sd == pytest.approx(ages.std())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("conflict", ["text.encoder=none"]), ("conflict", ["task=classify"]), ("conflict", ["model.name=unet"]),
        ("conflict", ["model.options={text_merge: slots}", "data.context_as=text"]),
        ("out_of_range", ["model.options={text_merge: slots}", "text.max_tokens=10"]),
        ("out_of_range", ["model.options={text_merge: slots}"]),
        ("out_of_range", ["model.options={text_merge: slots, num_slots: 2}", "text.max_tokens=1"]),
        ("conflict", [*PRETRAIN, "model.options={text_pool: first}"]),
    ],
)  # fmt: skip
def test_networks_that_cannot_take_it(recipe: Path, kind: str, words: list[str]) -> None:
    config = load_config(recipe, words)
    manifest = open_manifest(config)
    with refused(kind):
        context_rules(config, manifest, {"train": manifest.split("train")})


def test_slots_with_room_train(recipe: Path) -> None:
    task, batch = ready(recipe, "model.options={text_merge: slots}", "text.max_tokens=8")
    assert task.training_step(batch)["loss"].isfinite()


def test_pretraining_from_the_recipe_to_a_segmenter(recipe: Path, tmp_path: Path) -> None:
    run = train(load_config(recipe, [*PRETRAIN, "data.context_shuffle=true"]), tmp_path / "g2d")
    plan = json.loads((run / "plan.json").read_text())
    assert plan["context"]["shuffled"] and plan["context"]["as"] == "tokens"
    again = load_config(recipe, [*PRETRAIN, f"init={run}", "train.lr=0", "train.max_steps=1", "train.weight_decay=0"])
    second = train(again, tmp_path / "again")
    a, b = (load_file(folder / "model/context/tokens.safetensors") for folder in (run, second))
    assert all(torch.equal(a[key], b[key]) for key in a)
