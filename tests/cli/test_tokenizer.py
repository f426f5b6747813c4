"""medvl data tokenizer and medvl x pretrain-text, from reports to an encoder that starts from them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from faults import refused
from typer.testing import CliRunner

from medvl.cli.data import tokenizer
from medvl.cli.experiments import pretrain_text
from medvl.config import TextConfig
from medvl.data.corpus import Corpus, read_corpus
from medvl.experiments import masked_language
from medvl.experiments.masked_language import IGNORED, mask_tokens
from medvl.text.builtin import NUM_SPECIAL, BuiltinEncoder
from medvl.text.registry import build_text_encoder, configured_encoder

app = typer.Typer()
app.command("tokenizer")(tokenizer)
app.command("pretrain-text")(pretrain_text)
NAMES = "left right upper lower".split()


def report(rng: random.Random) -> str:
    """A language with rules: a term goes with a side and a verb, so that a hidden word can be told."""
    parts = []
    for _ in range(rng.randint(2, 4)):
        side = rng.choice(("left", "right"))
        if side == "left":
            parts.append(rng.choice(("left effusion persists below", "left opacity grows above")))
        else:
            parts.append(rng.choice(("right nodule calcified beside", "right scar stable behind")))
    return ". ".join(parts) + "."


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(0)
    lines = ["id,image,text,split"]
    texts: dict[str, None] = {}
    while len(texts) < 150:
        texts.setdefault(report(rng))
    for i, text in enumerate(texts):
        lines.append(f"r{i},,{text},{'train' if i < 110 else 'val' if i < 140 else 'test'}")
    lines.append(f"r150,,{next(iter(texts)).upper()},val")  # also a training text
    lines.append("r151,,,train")
    path = tmp_path_factory.mktemp("reports") / "manifest.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(*arguments: object) -> Any:
    answer = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout) if "--json" in arguments else answer.stdout


@pytest.fixture(scope="module")
def word_pieces(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "pieces"
    made = run("tokenizer", manifest, "--out", out, "--vocab-size", 200, "--json")
    assert made["texts"] == 110 and made["split"] == "train" and made["rows_without_text"] == 1
    assert made["words_without_pieces"] == 0 and made["pieces"] <= 200
    return out


def test_the_tokenizer_says_what_it_was_made_of(manifest: Path, word_pieces: Path, tmp_path: Path) -> None:
    card = json.loads((word_pieces / "tokenizer_card.json").read_text())
    assert card["derives_from"] == "report texts" and card["pieces"] > 30
    assert "derives from these reports" in (word_pieces / "README.txt").read_text()
    said = run("tokenizer", manifest, "--out", tmp_path / "all", "--split", "all")
    assert "from 151 texts" in said and "derives from report text" in said
    with refused("exists"):
        run("tokenizer", manifest, "--out", word_pieces)
    with refused("empty"):
        run("tokenizer", manifest, "--out", tmp_path / "none", "--split", "holdout")
    assert not (tmp_path / "none").exists()


def test_pretraining_learns_the_language(manifest: Path, word_pieces: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoder"
    state = torch.get_rng_state()
    options = ("--steps", 100, "--dim", 32, "--layers", 1, "--lr", 0.01, "--batch-size", 16, "--tokenizer", word_pieces)
    result = run("pretrain-text", manifest, "--out", out, *options, "--json")
    assert torch.equal(state, torch.get_rng_state())
    assert (result["train_texts"], result["val_texts"], result["told_apart_by"]) == (110, 30, "split")
    assert result["after"]["loss"] < 0.7 * result["unigram"]["loss"] < result["before"]["loss"]
    assert result["after"]["accuracy"] > 0.5 > result["unigram"]["accuracy"]
    assert result["after"]["tokens"] == result["before"]["tokens"] == result["unigram"]["tokens"] > 30
    assert {path.name for path in out.iterdir()} == {
        "README.txt", "encoder.json", "encoder.safetensors", "pretraining.json", "tokenizer.json",
    }  # fmt: skip
    text = TextConfig(dim=32, layers=1, init=str(out), tokenizer=str(word_pieces), max_tokens=5)
    start = configured_encoder(text, ["left effusion"], seed=3)
    assert isinstance(start, BuiltinEncoder) and start.training and start.max_tokens == 5 and not start.frozen
    assert start.p_unknown > 0 and start.pieces is not None
    weights = BuiltinEncoder.load(out).state_dict()
    assert all(torch.equal(weights[name], value) for name, value in start.state_dict().items())
    assert all(parameter.requires_grad for parameter in start.parameters())
    for name, wrong in (("dim", 64), ("layers", 2)):
        with refused("mismatch", naming=str(name)):
            build_text_encoder("builtin", init=str(out), **{"dim": 32, "layers": 1, name: wrong})


def test_the_same_seed_gives_the_same_encoder(manifest: Path, tmp_path: Path) -> None:
    options = ("--steps", 3, "--dim", 8, "--batch-size", 4, "--layers", 1)
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        said = run("pretrain-text", manifest, "--out", folder, *options, "--seed", seed)
        assert "perplexity" in said and "unigram" in said
    one, two, three = (BuiltinEncoder.load(folder).key for folder in folders)
    assert one == two != three


def test_words_that_init_does_not_know_are_added(
    manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "words"
    run("pretrain-text", manifest, "--out", out, "--steps", 2, "--dim", 8)
    old = BuiltinEncoder.load(out)
    start = build_text_encoder("builtin", texts=["left kidney"] * 3, dim=8, init=str(out))
    assert isinstance(start, BuiltinEncoder)
    assert start.vocabulary == (*old.vocabulary, "kidney") and start.tokenize(["kidney"]).ids.item() == len(old.ids)
    assert torch.equal(start.embedding.weight[:-1], old.embedding.weight)
    assert "1 words of the training texts are new to text.init" in capfd.readouterr().err
    start.save(tmp_path / "again")
    assert BuiltinEncoder.load(tmp_path / "again").key == start.key
    with refused("mismatch", naming="tokenizer"):
        pieces = tmp_path / "pieces"
        run("tokenizer", manifest, "--out", pieces, "--vocab-size", 150)
        build_text_encoder("builtin", dim=8, init=str(out), tokenizer=str(pieces))
    with refused("missing_file"):
        build_text_encoder("builtin", dim=8, init=str(tmp_path))


def test_masking_is_berts() -> None:
    torch.manual_seed(0)
    ids = torch.randint(NUM_SPECIAL, 1000, (400, 60))
    ids[:, 50:] = 0
    ids[:, 10] = 1
    read, target = mask_tokens(ids, 1000, torch.Generator().manual_seed(0))
    chosen = target != IGNORED
    assert not chosen[:, 50:].any() and not chosen[:, 10].any() and chosen.any(dim=1).all()
    assert torch.equal(target[chosen], ids[chosen]) and torch.equal(read[~chosen], ids[~chosen])
    assert abs(float(chosen.sum() / (400 * 49)) - 0.15) < 0.01
    hidden, kept = (read[chosen] == 1).float().mean(), (read[chosen] == ids[chosen]).float().mean()
    assert abs(float(hidden) - 0.8) < 0.03 and abs(float(kept) - 0.1) < 0.03
    other = read[chosen & (read != 1) & (read != ids)]
    assert 0.07 < len(other) / int(chosen.sum()) < 0.13 and other.min() >= NUM_SPECIAL and other.max() < 1000
    single, asked = mask_tokens(torch.tensor([[5, 0], [2, 0]]), 10, torch.Generator().manual_seed(1))
    assert asked.tolist() == [[5, IGNORED], [IGNORED, IGNORED]] and single[1].tolist() == [2, 0]


def test_batches_hold_every_text_once_an_epoch_and_texts_alike_in_length() -> None:
    rows = [torch.full((1 + n % 37,), 3 + n) for n in range(200)]
    batches = masked_language._batches(rows, 8, seed=0)
    seen, padding, total = [], 0, 0
    for _ in range(25):
        ids, _ = next(batches)
        seen += ids[:, 0].tolist()
        padding += int((ids == 0).sum())
        total += ids.numel()
    assert sorted(seen) == list(range(3, 203)) and padding / total < 0.1


def test_validation_texts_are_not_training_texts(manifest: Path, tmp_path: Path) -> None:
    train, val, told_by = read_corpus(manifest).train_and_val()
    assert (len(train), len(val), told_by) == (110, 30, "split")
    texts = tuple((f"text number {number} of many", "") for number in range(300))
    train, val, told_by = Corpus(tmp_path, texts * 2, 0).train_and_val()
    assert told_by == "hash" and len(train) + len(val) == 300 and 15 < len(val) < 50 and not set(train) & set(val)
    split = tuple((text, "train" if number % 2 else "test") for number, (text, _) in enumerate(texts))
    train, val, told_by = Corpus(tmp_path, split, 0).train_and_val()
    assert told_by == "hash" and {*train, *val} == {text for text, name in split if name == "train"} and val


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (("--steps", 0), "out_of_range"),
        (("--lr", 0), "out_of_range"),
        (("--text-column", "txt"), "missing_column"),
        (("--tokenizer", "nowhere"), "missing_file"),
    ],
)
def test_wrong_options(manifest: Path, tmp_path: Path, options: tuple[object, ...], kind: str) -> None:
    with refused(kind):
        run("pretrain-text", manifest, "--out", tmp_path / "x", *options)


def test_columns_of_other_names(manifest: Path, word_pieces: Path, tmp_path: Path) -> None:
    other, names = tmp_path / "other.csv", "data.columns={text: Report, split: Subset}"
    other.write_text(manifest.read_text().replace("id,image,text,split", "id,image,Report,Subset"))
    run("tokenizer", other, names, "--out", tmp_path / "pieces", "--vocab-size", 200)
    made = [(folder / "tokenizer.json").read_bytes() for folder in (word_pieces, tmp_path / "pieces")]
    assert made[0] == made[1]
    options = ("--out", tmp_path / "encoder", "--steps", 1, "--dim", 8, "--json")
    result = run("pretrain-text", other, names, *options)
    assert (result["train_texts"], result["val_texts"], result["told_apart_by"]) == (110, 30, "split")


def test_cut_texts_are_counted(manifest: Path, tmp_path: Path) -> None:
    options = ("--steps", 1, "--dim", 8, "--max-tokens", 8, "--json")
    result = run("pretrain-text", manifest, "--out", tmp_path / "cut", *options)
    assert result["texts_cut"] > 100


def test_manifests_that_hold_no_reports(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,text,split\na,,train\n")
    with refused("empty"):
        read_corpus(path)
    path.write_text("id,patient,findings\na,p,left lung\n")
    for column, like in (("text", "patient?"), ("patien", "patient?"), ("qqq", "--text")):
        with refused("missing_column", file=path, naming=like):
            read_corpus(path, column)
    path.write_text("id,text,split\na,left lung,trian\n")
    with refused("unknown", naming="trian"):
        read_corpus(path)
    rows = "".join(f"{name},left lung {name * n},train\n" for n, name in enumerate("abc", start=1))
    path.write_text(f"id,text,split\n{rows}d,Left  lung a,val\ne,right heart,val\n")
    with refused("empty"):
        run("pretrain-text", path, "--out", tmp_path / "x", "--dim", 8)
    path.write_text("id,text\na,left lung\n")
    with refused("empty"):
        run("pretrain-text", path, "--out", tmp_path / "y", "--dim", 8)


@pytest.mark.shared
def test_real_reports(shared_data: Path, tmp_path: Path) -> None:
    reports = shared_data / "openi-reports" / "manifest.csv"
    made = run("tokenizer", reports, "--out", tmp_path / "pieces", "--json")
    assert 2000 < made["pieces"] <= 8000 and made["words_without_pieces"] < 20
    encoder = build_text_encoder("builtin", dim=8, tokenizer=str(tmp_path / "pieces"))
    assert isinstance(encoder, BuiltinEncoder)
    val = read_corpus(reports).texts("val")
    tokens = encoder.tokenize(val)
    assert tokens.num_truncated == 0 and float((tokens.ids == 1).sum() / tokens.mask.sum()) < 0.001
