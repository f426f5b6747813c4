"""Word pieces of the user's reports: what may stand in them, what they read, and the encoder that takes them."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from faults import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.config import TextConfig
from medvl.text.builtin import BuiltinEncoder
from medvl.text.registry import build_text_encoder, configured_encoder, load_text_encoder
from medvl.text.tokenizer import SPECIAL, WordPieces

REPORTS = [
    "No pleural effusion or pneumothorax. Heart size is normal.",
    "Small left pleural effusion; no pneumothorax.",
    "The heart is enlarged, 12 mm nodule in the right upper zone.",
    "No pneumothorax. No effusion. Normal heart.",
] * 4


@pytest.fixture(scope="module")
def pieces() -> WordPieces:
    return WordPieces.train(REPORTS, 400)


@pytest.fixture(scope="module")
def folder(pieces: WordPieces, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pieces")
    pieces.save(path, {"texts": len(REPORTS)})
    return path


def test_reports_it_was_trained_on_have_no_unknown_word(pieces: WordPieces) -> None:
    rows = pieces.encode(REPORTS)
    assert not any(1 in row for row in rows) and not pieces.unknown_words(REPORTS)
    assert pieces.decode(rows[0]) == REPORTS[0].lower()
    assert pieces.decode(rows[1]) == "small left pleural effusion ; no pneumothorax."
    assert "pneumothorax" in pieces.vocabulary and "effusion" in pieces.vocabulary
    new = pieces.encode(["pleurothorax"])[0]  # a new word of known pieces
    assert 1 not in new and len(new) > 1


def test_the_same_reports_give_the_same_pieces(pieces: WordPieces) -> None:
    assert WordPieces.train(REPORTS[::-1], 400).to_json() == pieces.to_json()


def test_privacy_of_the_pieces() -> None:
    texts = [*REPORTS, "Smith smith smith SMITH seen", "Smith seen", "seen 12345 and 12345678"] + ["on 1999"] * 9
    vocabulary = WordPieces.train(texts, 400).vocabulary
    assert not any("smi" in piece or "ith" in piece for piece in vocabulary)  # many times, but in two reports
    numbers = [piece for piece in vocabulary if any(letter.isdigit() for letter in piece)]
    assert "12" in numbers and max(len(piece.removeprefix("##")) for piece in numbers) == 2


def test_long_numbers_are_one_sign_and_short_ones_are_read(pieces: WordPieces) -> None:
    texts = ["nodule 1999", "nodule 123456", "nodule 19x", "nodule # 20"]
    rows = [[pieces.vocabulary[i] for i in row] for row in pieces.encode(texts)]
    assert rows[0] == rows[1] == ["nodule", "#"]
    assert rows[2][1:3] == ["1", "##9"] and rows[3] == ["nodule", "2", "##0"]


def test_special_entries_cannot_be_written_in_a_text(pieces: WordPieces) -> None:
    assert pieces.vocabulary[:3] == SPECIAL
    assert not {0, 2} & set(pieces.encode(["[PAD] [EMPTY] heart"])[0])


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_any_string_is_read(pieces: WordPieces, text: str) -> None:
    ids = pieces.encode([text])[0]
    assert all(0 < i < len(pieces) and i != 2 for i in ids)
    pieces.decode(ids)


def test_unknown_words_are_named(pieces: WordPieces) -> None:
    assert pieces.unknown_words(["Žlutý heart", "žlutý"]) == {"žlutý": 2}


def test_save_and_load(pieces: WordPieces, folder: Path, tmp_path: Path) -> None:
    assert WordPieces.load(folder).to_json() == pieces.to_json()
    assert WordPieces.load(folder).encode(REPORTS) == pieces.encode(REPORTS)
    assert "derives from these reports" in (folder / "README.txt").read_text()
    assert deepcopy(pieces).encode(REPORTS) == pieces.encode(REPORTS)
    with refused("missing_file"):
        WordPieces.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with refused("damaged"):
        WordPieces.load(tmp_path)
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["model"]["vocab"] = {"[UNK]": 0, "heart": 1}
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    with refused("malformed"):
        WordPieces.load(tmp_path)


def test_too_little_to_learn_from() -> None:
    with refused("empty"):
        WordPieces.train(["left lung", "right heart"], 400)
    with refused("out_of_range"):
        WordPieces.train(REPORTS, 50)
    letters = "".join(chr(0x4E00 + i) for i in range(120))
    with refused("out_of_range"):
        WordPieces.train([" ".join(letters)] * 3, 110)


def test_the_encoder_of_word_pieces(folder: Path, tmp_path: Path) -> None:
    encoder = configured_encoder(TextConfig(dim=16, tokenizer=str(folder), layers=3), [], seed=0)
    assert isinstance(encoder, BuiltinEncoder) and encoder.num_layers == 3
    encoder.eval()
    texts = ["Small pleurothorax", "", "žlutý"]
    tokens = encoder.tokenize(texts)
    assert encoder.pieces is not None and tokens.ids[0].tolist() == encoder.pieces.encode(texts[:1])[0]
    assert tokens.ids[1, 0] == 2 and tokens.mask.sum(dim=1).tolist()[1:] == [1, 1] and tokens.ids[2, 0] == 1
    assert encoder.unknown_words(texts) == {"žlutý": 1}
    encoder.save(tmp_path)
    again = load_text_encoder(tmp_path)
    assert isinstance(again, BuiltinEncoder) and again.num_layers == 3 and again.key == encoder.key
    assert torch.equal(again.encode(texts)[0], encoder.encode(texts)[0])
    stored = json.loads((tmp_path / "encoder.json").read_text())
    (tmp_path / "encoder.json").write_text(json.dumps({**stored, "pieces": 5}))
    with refused("mismatch"):
        load_text_encoder(tmp_path)


def test_depth_and_pieces_leave_the_default_as_it_was(tmp_path: Path) -> None:
    encoder = BuiltinEncoder.from_texts(REPORTS, dim=8)
    assert {name.split(".")[2] for name in encoder.state_dict() if name.startswith("layers.")} == {"0", "1"}
    encoder.save(tmp_path)
    assert set(json.loads((tmp_path / "encoder.json").read_text())) == {"spec", "dim", "max_tokens", "vocabulary"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.json", "encoder.safetensors"]
    with refused("out_of_range", naming="text.layers"):
        build_text_encoder("builtin", texts=REPORTS, layers=0)


@pytest.mark.parametrize("with_pieces", [False, True])
def test_long_reports(folder: Path, with_pieces: bool) -> None:
    report = "no pleural effusion , heart normal ; " * 100
    options = {"dim": 8, "tokenizer": str(folder) if with_pieces else None}
    encoder = build_text_encoder("builtin", texts=REPORTS, **options)  # type: ignore[arg-type]
    assert encoder is not None
    tokens = encoder.tokenize([report, "heart"])
    assert tokens.ids.shape[1] > 4 * BuiltinEncoder.MAX_POSITIONS and tokens.num_truncated == 0
    features, _ = encoder.eval().encode([report, "heart"])
    assert features.isfinite().all() and features[0, -1].abs().max() > 0
    cut = build_text_encoder("builtin", texts=REPORTS, max_tokens=200, **options)  # type: ignore[arg-type]
    assert cut is not None
    tokens = cut.tokenize([report, "heart", report])
    assert tokens.ids.shape == (3, 200) and tokens.num_truncated == 2
