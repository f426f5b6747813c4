"""Pretrained encoders of which the last layers are trained: the two halves are the model, only one learns."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import refused
from torch import nn

from medvl.config import TextConfig
from medvl.text.cache import FeatureCache
from medvl.text.huggingface import PretrainedEncoder
from medvl.text.registry import build_text_encoder, configured_encoder, load_text_encoder

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] right left upper lower lung zone the ##s".split()
TEXTS = ["left lung", "right upper zone the left lower zone the right lung", ""]
SMALL = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 32, "max_position_embeddings": 24}
DROPOUT = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
KINDS: dict[str, dict[str, Any]] = {
    "Bert": SMALL | DROPOUT, "Roberta": SMALL | DROPOUT | {"pad_token_id": 0}, "MPNet": SMALL,
    "Electra": SMALL | DROPOUT | {"embedding_size": 8}, "Albert": SMALL | {"embedding_size": 8},
    "DistilBert": {"vocab_size": len(WORDS), "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32,
                   "max_position_embeddings": 24, "dropout": 0.3},
    "CLIPText": SMALL | {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0},
}  # fmt: skip


def make_model(kind: str) -> Any:
    import transformers as hf

    torch.manual_seed(0)
    return getattr(hf, f"{kind}Model")(getattr(hf, f"{kind}Config")(**KINDS[kind]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random models as a user's local folders, all with one WordPiece vocabulary."""
    from transformers import BertTokenizerFast

    root, found = tmp_path_factory.mktemp("models"), {}
    for kind in KINDS:
        found[kind] = root / kind
        make_model(kind).save_pretrained(found[kind])
        BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(found[kind])
    return found


def partly(folder: Path, train_layers: int = 1) -> PretrainedEncoder:
    encoder = configured_encoder(TextConfig(encoder=f"hf:{folder}", train_layers=train_layers), TEXTS, seed=0)
    assert isinstance(encoder, PretrainedEncoder)
    return encoder


def suffix_of(encoder: PretrainedEncoder) -> set[str]:
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "Roberta", "Electra", "CLIPText"])
@pytest.mark.parametrize("train_layers", [1, 3])
def test_the_halves_are_the_model(folders: dict[str, Path], kind: str, train_layers: int) -> None:
    encoder = partly(folders[kind], train_layers).eval()
    tokens = encoder.tokenize(TEXTS)
    assert not tokens.mask.all()  # the padding must matter
    with torch.no_grad():
        whole = encoder.model(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state
        hidden = encoder.prefix(tokens.ids, tokens.mask)
        ours = encoder.suffix(hidden, tokens.mask)
    expected = whole * tokens.mask[:, :, None]
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder(tokens.ids, tokens.mask), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder(hidden, tokens.mask), expected, atol=1e-6, rtol=0)
    frozen = build_text_encoder(f"hf:{folders[kind]}")
    assert frozen is not None
    torch.testing.assert_close(frozen(tokens.ids, tokens.mask), expected, atol=1e-6, rtol=0)
    assert not torch.allclose(hidden, expected, atol=1e-2)


def test_eager_attention_takes_the_same_mask(folders: dict[str, Path]) -> None:
    encoder = partly(folders["Bert"]).eval()
    tokens = encoder.tokenize(TEXTS)
    before = encoder(tokens.ids, tokens.mask)
    encoder.model.set_attn_implementation("eager")
    torch.testing.assert_close(encoder(tokens.ids, tokens.mask), before, atol=1e-6, rtol=0)


def test_gradients_reach_the_last_layers_only(folders: dict[str, Path]) -> None:
    encoder = partly(folders["Bert"], 2).train()
    tokens = encoder.tokenize(TEXTS)
    encoder(tokens.ids, tokens.mask).square().sum().backward()
    reached = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    assert reached == suffix_of(encoder)
    assert {name.split(".")[3] for name in reached} == {"1", "2"}
    assert all(float(p.grad.abs().sum()) > 0 or "key.bias" in n for n, p in encoder.named_parameters() if n in reached)


def test_only_the_trained_layers_drop_out(folders: dict[str, Path]) -> None:
    encoder = partly(folders["Bert"]).train()
    tokens = encoder.tokenize(TEXTS)
    hidden = [encoder.prefix(tokens.ids, tokens.mask) for _ in range(2)]
    assert torch.equal(*hidden) and not hidden[0].requires_grad
    assert encoder.training and not encoder.model.embeddings.training
    assert not torch.equal(*(encoder.suffix(hidden[0], tokens.mask) for _ in range(2)))
    encoder.eval()
    assert torch.equal(*(encoder.suffix(hidden[0], tokens.mask) for _ in range(2)))


def train_a_step(encoder: PretrainedEncoder) -> None:
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.5)
    tokens = encoder.tokenize(TEXTS)
    encoder(tokens.ids, tokens.mask).square().mean().backward()
    optimizer.step()


def test_trained_layers_are_saved_beside_the_reference(folders: dict[str, Path], tmp_path: Path) -> None:
    encoder = partly(folders["Bert"]).train()
    key, feature_key, start = encoder.key, encoder.feature_key, encoder.eval().encode(TEXTS)[0].detach()
    train_a_step(encoder)
    assert encoder.key != key and encoder.feature_key == feature_key
    encoder.eval().save(tmp_path)
    again = load_text_encoder(tmp_path)
    assert isinstance(again, PretrainedEncoder) and again.train_layers == 1 and not again.frozen and not again.training
    assert again.key == encoder.key and again.feature_key == feature_key
    assert torch.equal(again.encode(TEXTS)[0], encoder.encode(TEXTS)[0])
    assert (again.encode(TEXTS)[0] - start).abs().max() > 1e-3
    whole = sum(path.stat().st_size for path in folders["Bert"].glob("*.safetensors"))
    assert (tmp_path / "suffix.safetensors").stat().st_size < whole / 2
    (tmp_path / "suffix.safetensors").unlink()
    with refused("missing_file"):
        load_text_encoder(tmp_path)


def test_other_weights_under_the_reference_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["Bert"], tmp_path / "own")
    partly(tmp_path / "own").save(tmp_path / "text")
    torch.manual_seed(1)
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(**SMALL)).save_pretrained(tmp_path / "own")
    with refused("mismatch"):
        load_text_encoder(tmp_path / "text")


def test_a_checkpoint_holds_the_trained_layers_only(folders: dict[str, Path]) -> None:
    holder = nn.ModuleDict({"text": partly(folders["Bert"]), "other": nn.Linear(2, 2)})
    text = holder["text"]
    assert isinstance(text, PretrainedEncoder)
    expected = {f"text.{name}" for name in suffix_of(text)} | {"other.weight", "other.bias"}
    assert set(holder.state_dict()) == expected
    train_a_step(text)
    state = deepcopy(holder.state_dict())
    fresh = nn.ModuleDict({"text": partly(folders["Bert"]), "other": nn.Linear(2, 2)})
    fresh.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), holder.parameters(), strict=True))
    with pytest.raises(RuntimeError, match="Missing"):
        fresh.load_state_dict({name: value for name, value in state.items() if "layer.2.output.dense.bias" not in name})


def test_a_copy_is_its_own(folders: dict[str, Path]) -> None:
    encoder = partly(folders["Bert"]).eval()
    twin = deepcopy(encoder)
    before = encoder.encode(TEXTS)[0]
    train_a_step(twin)
    assert torch.equal(encoder.encode(TEXTS)[0], before)
    assert not torch.equal(twin.encode(TEXTS)[0], before)
    assert set(twin.state_dict()) == set(encoder.state_dict()) == suffix_of(encoder)


def test_the_output_of_the_frozen_part_is_cached(folders: dict[str, Path], tmp_path: Path) -> None:
    encoder = partly(folders["Bert"]).train()
    cache = FeatureCache(encoder, tmp_path)
    hidden, mask = cache.features(TEXTS)
    assert encoder.training  # as it was
    tokens = encoder.tokenize(TEXTS)
    torch.testing.assert_close(hidden, encoder.prefix(tokens.ids, tokens.mask), atol=1e-6, rtol=0)
    train_a_step(encoder)  # the file stays right
    again = FeatureCache(encoder, tmp_path)
    assert torch.equal(again.features(TEXTS)[0], hidden) and again.num_computed == 0
    assert encoder.feature_key != partly(folders["Bert"], 2).feature_key != partly(folders["Bert"], 3).feature_key
    encoder(hidden, mask).sum().backward()


class Probe(nn.Module):
    """Stands in for the network: gives what text it was given."""

    uses_text = True

    def forward(self, image: torch.Tensor, text: torch.Tensor, mask: torch.Tensor, index: Any) -> torch.Tensor:
        return text


def test_the_segmenter_takes_tokens_and_cached_prefixes_alike(folders: dict[str, Path]) -> None:
    from medvl.data.text_input import TextInput
    from medvl.models.module import SegmentModel

    encoder = partly(folders["Bert"])
    module = SegmentModel(Probe(), encoder).eval()
    assert module.text_encoder is encoder
    answers = []
    for cache in (None, FeatureCache(encoder)):
        text, mask = TextInput(encoder, cache, uses_text=True)(TEXTS, torch.device("cpu"))
        answers.append(module(torch.zeros(1), torch.zeros(3), text, mask))
    torch.testing.assert_close(answers[0], answers[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["Albert", "MPNet"])
def test_models_that_cannot_be_cut_are_refused(folders: dict[str, Path], kind: str) -> None:
    assert build_text_encoder(f"hf:{folders[kind]}") is not None
    with refused("unsupported"):
        partly(folders[kind])


def test_layers_that_there_are_not(folders: dict[str, Path]) -> None:
    with refused("out_of_range"):
        partly(folders["Bert"], 4)
    with refused("conflict", naming="text.train_layers"):
        build_text_encoder("builtin", texts=["lung"] * 3, train_layers=1)
    for option in ({"layers": 3}, {"tokenizer": "x"}, {"init": "x"}):
        with refused("conflict", naming="text.encoder"):
            build_text_encoder(f"hf:{folders['Bert']}", **option)  # type: ignore[arg-type]
