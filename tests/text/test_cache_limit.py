"""The bound on what the feature cache keeps."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medvl.text import cache as cache_module
from medvl.text.base import TextEncoder, Tokens
from medvl.text.cache import FeatureCache

TEXTS = [f"text {number:02}" for number in range(10)]
ROW = 7 * 64 * 4  # bytes of one text's features: a token a letter


class Letters(TextEncoder):
    """A frozen encoder: one token a letter, and the weight makes it a feature."""

    spec, dim, max_tokens, frozen, prefix_frozen = "hf:letters", 64, None, True, True

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(128, 64)

    @property
    def key(self) -> str:
        return "letters"

    def tokenize(self, texts: list[str]) -> Tokens:  # type: ignore[override]
        ids = torch.tensor([[ord(letter) for letter in text] for text in texts])
        return Tokens(ids, torch.ones_like(ids, dtype=torch.bool), 0)

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        return self.table(ids)


@pytest.fixture
def encoder() -> Letters:
    torch.manual_seed(0)
    return Letters().eval()


def megabytes(rows: float) -> float:
    return rows * ROW / 2**20


def test_what_does_not_fit_is_computed_each_time(
    encoder: Letters, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = FeatureCache(encoder, tmp_path, limit_mb=megabytes(4.5))
    expected = encoder.encode(TEXTS)[0]
    for time in (1, 2):
        torch.testing.assert_close(cache.features(TEXTS)[0], expected)
        assert len(cache._features) == 4
        assert cache.num_not_kept == 6 * time and cache.num_computed == 10 + 6 * (time - 1)
    assert capfd.readouterr().err.count("limit_mb") == 1
    assert next(tmp_path.glob("*.safetensors")).stat().st_size < 4.5 * ROW + 2000
    assert FeatureCache(encoder, tmp_path).features(TEXTS[:4])[0].shape == (4, 7, 64)


def test_a_file_larger_than_the_bound_is_read_in_part(encoder: Letters, tmp_path: Path) -> None:
    FeatureCache(encoder, tmp_path).features(TEXTS)
    small = FeatureCache(encoder, tmp_path, limit_mb=megabytes(2.5))
    assert len(small._features) == 2
    torch.testing.assert_close(small.features(TEXTS)[0], encoder.encode(TEXTS)[0])
    assert small.num_computed == 8 and len(small._features) == 2


def test_fill_stops_at_the_bound(encoder: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "BATCH", 2)
    cache = FeatureCache(encoder, limit_mb=megabytes(3.5))
    cache.fill(TEXTS)
    assert cache.num_computed == 4 and len(cache._features) == 3
    full = FeatureCache(encoder)
    full.fill(TEXTS)
    full.features(TEXTS)
    assert full.num_computed == 10 and full.num_not_kept == 0


def test_a_large_file_is_not_rewritten_for_every_text(
    encoder: Letters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "WRITE_BYTES", 1)
    many = [f"text {number:02}" for number in range(80)]
    cache = FeatureCache(encoder, tmp_path)
    writes = []
    original = cache._write
    monkeypatch.setattr(cache, "_write", lambda: (writes.append(1), original()))
    for text in many:
        cache.features([text])
    assert len(writes) < 40
    cache.flush()
    again = FeatureCache(encoder, tmp_path)
    again.features(many)
    assert again.num_computed == 0


def test_a_copy_shares_the_features(encoder: Letters) -> None:
    cache = FeatureCache(encoder)
    cache.fill(TEXTS)
    assert deepcopy({"cache": cache})["cache"] is cache
