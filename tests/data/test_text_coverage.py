"""Vocabularies are counted over rows and patients; what the encoder cannot read or tell apart is an error."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faults import refused
from PIL import Image

from medvl.config import load_config
from medvl.data.record import MaskRef, Record
from medvl.data.text_input import check_distinguishable, check_readable, images_with_other_masks, text_coverage
from medvl.text.builtin import BuiltinEncoder, learn_vocabulary
from medvl.text.tokenizer import word_patients
from medvl.train.run import train

PROMPTS = ("right lung", "left lung", "both lungs")


def record(n: int, text: str, mask: int, image: int | None = None) -> Record:
    number = n if image is None else image
    return Record(
        id=f"r{n}", image=Path(f"i{number}.png"), text=text, masks={"mask": MaskRef(Path("m.png"), (mask,))}, boxes=(),
        labels=(), patient=f"p{number}", study=None, view=None, split="train", licence=None, extra={}, line=n + 2,
    )  # fmt: skip


def test_three_prompts_on_many_rows_are_a_vocabulary() -> None:
    texts = [prompt for _ in range(35) for prompt in PROMPTS]
    patients = [f"p{n}" for n in range(35) for _ in PROMPTS]
    assert learn_vocabulary(texts, patients) == ["both", "left", "lung", "lungs", "right"]
    coverage = text_coverage(BuiltinEncoder.from_texts(texts, patients=patients, dim=8), texts)
    assert (coverage.num_distinct, coverage.vocabulary, coverage.share_unknown) == (3, 5, 0.0)


def test_a_word_of_one_patient_stays_out_however_often_it_stands() -> None:
    texts = ["opacity smith"] * 9 + ["opacity"] * 2
    patients = ["a"] * 9 + ["b", "c"]
    assert learn_vocabulary(texts, patients) == ["opacity"]
    assert learn_vocabulary(texts) == ["opacity", "smith"]  # no patients: every row is of its own
    rows = [text.split() for text in texts]
    by_hand = {
        word: len({p for row, p in zip(rows, patients, strict=True) if word in row}) for word in ("opacity", "smith")
    }
    assert dict(word_patients(rows, patients)) == by_hand


def test_unknown_words_are_counted_over_rows() -> None:
    encoder = BuiltinEncoder(("[PAD]", "[UNK]", "[EMPTY]", "lung", "left"), dim=8)
    texts = ["left lung", "left lung", "left kidney", ""]
    coverage = text_coverage(encoder, texts)
    words = Counter(word for text in texts for word in text.split())
    assert coverage.num_words == words.total() == 6
    assert coverage.unknown == {"kidney": 1} and coverage.share_unknown == pytest.approx(1 / 6)
    assert (coverage.num_empty, coverage.num_rows) == (1, 4)
    check_readable(coverage)
    with refused("unknown"):
        check_readable(text_coverage(encoder, ["kidney stone", "left kidney stone cyst"]))


def test_texts_that_are_the_same_to_the_encoder_with_other_masks() -> None:
    encoder = BuiltinEncoder(("[PAD]", "[UNK]", "[EMPTY]", "lung", "upper", "lower"), dim=8)

    def pairs(first: str, second: str) -> list[Record]:
        """Two texts an image, each of another mask."""
        return [record(2 * n + k, text, k + 1, image=n) for n in range(5) for k, text in enumerate((first, second))]

    images = [record(n, ("right lung", "left lung")[n % 2], 1) for n in range(6)]  # one row an image: the sides tell
    for rows in (pairs("right lung", "left lung"), images, pairs("ab lung", "cd lung")):
        with refused("ambiguous"):
            check_distinguishable(encoder, rows, [row.text for row in rows])
    fine = pairs("upper lung", "lower lung")
    check_distinguishable(encoder, fine, [row.text for row in fine])


def test_a_rare_confusion_is_said_and_does_not_stop(capsys: pytest.CaptureFixture[str]) -> None:
    encoder = BuiltinEncoder(("[PAD]", "[UNK]", "[EMPTY]", "lung", "upper", "lower"), dim=8)
    rows = [record(n, f"{('upper', 'lower')[n % 2]} lung", 1) for n in range(398)]
    rows += [record(398, "left lung", 1), record(399, "right lung", 2)]
    check_distinguishable(encoder, rows, [row.text for row in rows])
    assert "2 of 400" in capsys.readouterr().err


def test_images_that_only_a_text_tells_apart() -> None:
    rows = [record(n, "ab"[n % 2], mask, image=n // 2) for n, mask in enumerate((1, 2, 1, 1))]
    assert images_with_other_masks(rows) == 1


def test_a_text_that_would_be_ignored_is_an_error_before_training(tmp_path: Path) -> None:
    lines = ["id,image,text,mask,mask_values,split"]
    for n in range(4):
        pixels = np.zeros((32, 32), np.uint8)
        pixels[:16, :16], pixels[16:, 16:] = 1, 2
        Image.fromarray(pixels * 100).save(tmp_path / f"i{n}.png")
        Image.fromarray(pixels).save(tmp_path / f"m{n}.png")
        split = "train" if n < 2 else "val"  # two patients: no word may be kept
        lines += [f"a{n},i{n}.png,left part,m{n}.png,1,{split}", f"b{n},i{n}.png,right part,m{n}.png,2,{split}"]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "r.yaml").write_text(
        "data: {manifest: m.csv, laterality: patient, image_size: [32, 32], in_channels: 1}\n"
        "text: {dim: 8}\nmodel: {size: nano}\ntrain: {epochs: 1, accelerator: cpu}\n"
    )
    with refused("ambiguous") as caught:
        train(load_config(tmp_path / "r.yaml"), tmp_path / "run")
    assert "minilm" in str(caught.value) and not (tmp_path / "run").exists()
