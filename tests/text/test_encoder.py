"""Text encoders: one interface; any length with a mask; what is cut is counted; frozen features are computed once."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from faults import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.core.errors import InputError
from medvl.text.base import TextEncoder
from medvl.text.builtin import BuiltinEncoder, words_of
from medvl.text.cache import FeatureCache
from medvl.text.registry import build_text_encoder, load_text_encoder

TEXTS = [
    "right upper zone and left lower zone", "left upper zone and right lower zone", "upper zone of the right lung",
    "both lungs", "the left lung",
] * 3  # fmt: skip


@pytest.fixture(scope="module")
def builtin() -> TextEncoder:
    encoder = build_text_encoder("builtin", texts=TEXTS, dim=32)
    assert encoder is not None
    return encoder.eval()


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights and a WordPiece vocabulary, as a user's local folder."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] right left upper lower lung zone the ##s".split()
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=24,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def hf(folder: Path, **options: int) -> TextEncoder:
    encoder = build_text_encoder(f"hf:{folder}", **options)  # type: ignore[arg-type]
    assert encoder is not None
    return encoder


def test_padding_does_not_change_features(builtin: TextEncoder, hf_folder: Path) -> None:
    for encoder in (builtin, hf(hf_folder)):
        features, mask = encoder.encode(["left lung", "right upper zone and left lower zone of the right lung"])
        alone, alone_mask = encoder.encode(["left lung"])
        length = int(alone_mask.sum())
        assert mask[0].sum() == length and features.shape == (2, mask.shape[1], encoder.dim)
        torch.testing.assert_close(features[0, :length], alone[0], atol=1e-5, rtol=0)


def test_a_tokenizer_that_pads_on_the_left(hf_folder: Path, tmp_path: Path) -> None:
    """The features of a text do not depend on the other texts of its batch, cached or not."""
    folder = Path(shutil.copytree(hf_folder, tmp_path / "left"))
    settings_file = folder / "tokenizer_config.json"
    settings_file.write_text(json.dumps({**json.loads(settings_file.read_text()), "padding_side": "left"}))
    texts = ["left lung", "right upper zone the lung zone"]
    encoder, wanted = hf(folder), hf(hf_folder)
    cache = FeatureCache(encoder)
    features, mask = encoder.encode(texts)
    assert mask[0].sum() == 4 < mask.shape[1]
    for source, kept in ((features, mask), cache.features(texts)):
        for row, keep, text in zip(source, kept, texts, strict=True):
            torch.testing.assert_close(row[keep], wanted.encode([text])[0][0], atol=1e-5, rtol=0)


def test_word_order_and_binding_change_features(builtin: TextEncoder) -> None:
    features, _ = builtin.encode(["right upper and left lower zone", "left upper and right lower zone"])
    assert (features[0].mean(0) - features[1].mean(0)).abs().max() > 1e-3


def test_an_empty_text_is_one_token(builtin: TextEncoder, hf_folder: Path) -> None:
    for text in ("", "   ", "the of"):
        assert builtin.tokenize([text]).mask.sum() == 1
    assert builtin.tokenize(["", "left lung"]).ids[0, 0] != builtin.tokenize(["left"]).ids[0, 0]
    assert hf(hf_folder).tokenize([""]).mask.sum() >= 1


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_any_string_is_tokenized(text: str) -> None:
    encoder = BuiltinEncoder.from_texts(TEXTS, dim=8)
    tokens = encoder.tokenize([text])
    assert tokens.ids.shape == tokens.mask.shape and tokens.mask.any()


def test_cut_texts_are_counted(hf_folder: Path) -> None:
    encoder = BuiltinEncoder.from_texts(TEXTS, dim=8, max_tokens=3)
    tokens = encoder.tokenize(["left lung", "right upper zone and left lower zone"])
    assert tokens.num_truncated == 1 and tokens.ids.shape[1] == 3
    tokens = hf(hf_folder, max_tokens=4).tokenize(["left lung", "right upper lung zone"])
    assert tokens.num_truncated == 1 and tokens.ids.shape[1] == 4


def test_privacy_of_the_vocabulary() -> None:
    encoder = BuiltinEncoder.from_texts(["lung 12 12345 seen"] * 3 + ["smith smith lung", "smith lung"], dim=8)
    assert {"lung", "12", "seen"} <= set(encoder.vocabulary)
    assert "smith" not in encoder.vocabulary  # in two texts only
    assert "12345" not in encoder.vocabulary
    assert encoder.unknown_words(["smith lung 12345"]) == {"smith": 1, "12345": 1}


def test_no_training_text_is_an_error() -> None:
    with refused("empty", naming="text_column"):
        build_text_encoder("builtin", texts=["", " "])


def test_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, two, three = (BuiltinEncoder.from_texts(TEXTS, dim=8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert one.key == two.key != three.key


def test_builtin_save_and_load(builtin: TextEncoder, tmp_path: Path) -> None:
    builtin.save(tmp_path)
    again = load_text_encoder(tmp_path)
    assert again.key == builtin.key
    assert torch.equal(again.encode(["right upper zone"])[0], builtin.encode(["right upper zone"])[0])


def test_pretrained_is_saved_by_reference_and_checked(hf_folder: Path, tmp_path: Path) -> None:
    encoder = hf(hf_folder)
    encoder.save(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))  # the weights are not ours to copy
    assert load_text_encoder(tmp_path).key == encoder.key
    stored = json.loads((tmp_path / "encoder.json").read_text())
    (tmp_path / "encoder.json").write_text(json.dumps({**stored, "key": "hf-0000000000000000"}))
    with refused("mismatch"):
        load_text_encoder(tmp_path)


def test_frozen_stays_frozen(hf_folder: Path) -> None:
    encoder = hf(hf_folder)
    assert encoder.frozen and not encoder.train().training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_unknown_encoder_and_missing_weights(tmp_path: Path) -> None:
    for spec, kind in (("bulitin", "unknown"), (f"hf:{tmp_path}", "unreadable"), ("hf:nobody/has-it", "unreadable")):
        with refused(kind):
            build_text_encoder(spec, texts=TEXTS)
    with refused("missing_file"):
        load_text_encoder(tmp_path)
    assert build_text_encoder("none") is None


def test_each_distinct_text_is_computed_once(hf_folder: Path, tmp_path: Path) -> None:
    encoder, calls = hf(hf_folder), [0]
    original = encoder.encode

    def counted(texts: list[str]) -> object:
        calls[0] += len(texts)
        return original(texts)

    encoder.encode = counted  # type: ignore[method-assign,assignment]
    cache = FeatureCache(encoder, tmp_path)
    features, mask = cache.features(["left lung", "right lung", "left lung", "right upper lung zone"])
    cache.features(["left lung"] * 5)
    assert calls[0] == cache.num_computed == 3
    expected, expected_mask = original(["left lung", "right lung", "left lung", "right upper lung zone"])
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    assert torch.equal(mask, expected_mask)
    again = FeatureCache(encoder, tmp_path)
    assert torch.equal(again.features(["right lung"])[0], cache.features(["right lung"])[0])
    assert again.num_computed == 0
    assert "report text" in (tmp_path / "README.txt").read_text()


def test_the_cache_key_includes_the_encoder(hf_folder: Path, tmp_path: Path) -> None:
    FeatureCache(hf(hf_folder), tmp_path).features(["left lung"])
    other = FeatureCache(hf(hf_folder, max_tokens=3), tmp_path)
    other.features(["left lung"])
    assert other.num_computed == 1 and len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_damaged_cache_is_computed_anew(hf_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encoder = hf(hf_folder)
    FeatureCache(encoder, tmp_path).features(["left lung"])
    next(tmp_path.glob("*.safetensors")).write_bytes(b"broken")
    again = FeatureCache(encoder, tmp_path)
    again.features(["left lung"])
    assert again.num_computed == 1 and "computed anew" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["CLIP", "CLIPSeg"])
def test_the_text_tower_of_a_two_tower_model(hf_folder: Path, tmp_path: Path, kind: str) -> None:
    import transformers

    shutil.copytree(hf_folder, tmp_path / "two")  # its tokenizer
    (tmp_path / "two" / "config.json").unlink()
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": 13, "max_position_embeddings": 12, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(
        text_config={**small, **words},
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path / "two")
    encoder = hf(tmp_path / "two")
    assert encoder.dim == 16 and encoder.max_tokens == 12
    features, mask = encoder.encode(["the right lung", "left upper zone the lung " * 5])
    assert features.shape == (2, 12, 16) and mask.sum(dim=1).tolist() == [5, 12]
    assert encoder.tokenize(["left upper zone the lung " * 5]).num_truncated == 1


def test_packaged_minilm() -> None:
    try:
        encoder = build_text_encoder("minilm", max_tokens=16)
    except InputError as error:
        assert "requirements-minilm.txt" in str(error)
        if os.environ.get("MEDVL_REQUIRE_SHARED") == "1":
            pytest.fail("the packaged MiniLM is not installed")
        pytest.skip("the packaged MiniLM is not installed")
    assert encoder is not None and encoder.dim == 384
    features, mask = encoder.encode(["right upper zone", "zone of the upper right lung", "a cat"])
    pooled = torch.stack([row[keep].mean(0) for row, keep in zip(features, mask, strict=True)])
    cosine = torch.nn.functional.cosine_similarity(pooled[:1], pooled[1:])
    assert cosine[0] > cosine[1] + 0.2


@pytest.mark.shared
def test_real_captions(shared_data: Path) -> None:
    with (shared_data / "qata-texts" / "captions.csv").open(encoding="utf-8") as file:
        captions = [row["Description"] for row in csv.DictReader(file) if row["split"] == "train"]
    encoder = BuiltinEncoder.from_texts(captions, dim=8, max_tokens=10)
    assert encoder.unknown_words(captions).total() / sum(len(words_of(text)) for text in captions) < 0.001
    bilateral = [text for text in captions if text.startswith("Bilateral")]
    assert 0.79 < len(bilateral) / len(captions) < 0.80
    # Every bilateral caption is cut at ten tokens, and what is lost is the right lung.
    assert encoder.tokenize(bilateral).num_truncated == len(bilateral)
    kept = [words_of(text)[:10] for text in bilateral]
    assert sum("right" not in words for words in kept) / len(kept) > 0.9


def test_words_that_a_pretrained_tokenizer_does_not_know_are_counted(hf_folder: Path) -> None:
    encoder = build_text_encoder(f"hf:{hf_folder}")
    assert encoder is not None
    assert encoder.unknown_words(["The left lungs, kidney", "kidney"]) == {"kidney": 2}
    assert encoder.words("The left lungs, kidney") == ["the", "left", "lungs", "kidney"]
