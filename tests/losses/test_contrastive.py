"""Contrastive alignment: the formula, what is no negative, gradients, batches in pieces, retrieval and its chance."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from faults import refused
from torch import Tensor, nn

from medvl.losses.contrastive import CachedEmbeddings, gathered_info_nce, info_nce, retrieval, same_pairs


def pairs(num: int = 5, dim: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, num, dim, generator=generator, dtype=torch.float64).unbind()
    return image, text


def brute_force(image: Tensor, text: Tensor, sigma: float, same: Tensor | None = None) -> tuple[float, float]:
    """Equation 1 in plain Python, and its mirror."""
    num = len(image)
    v, w = ([row / math.sqrt(sum(x * x for x in row.tolist())) for row in side] for side in (image, text))
    e = [[math.exp(float(v[i] @ w[j]) / sigma) for j in range(num)] for i in range(num)]
    left_out = [[same is not None and i != j and bool(same[i, j]) for j in range(num)] for i in range(num)]
    to_text = [e[i][i] / sum(e[i][j] for j in range(num) if not left_out[i][j]) for i in range(num)]
    to_image = [e[j][j] / sum(e[i][j] for i in range(num) if not left_out[i][j]) for j in range(num)]
    return tuple(-sum(math.log(p) for p in side) / num for side in (to_text, to_image))  # type: ignore[return-value]


SAME = torch.tensor([
    [1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 0, 1, 0, 1], [0, 0, 0, 1, 0], [0, 0, 1, 0, 1],
]).bool()  # fmt: skip


def test_by_hand() -> None:
    image, text = torch.tensor([[2.0, 0], [0, 0.5]]), torch.tensor([[3.0, 0], [4, 3]])  # unit: (1, 0), (0.8, 0.6)
    to_text = (math.log(1 + math.exp(-0.4)) + math.log(1 + math.exp(-1.2))) / 2  # cosines 1, 0.8 | 0, 0.6
    to_image = (math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(0.4))) / 2
    actual = {name: value.item() for name, value in info_nce(image, text, sigma=0.5).items()}
    expected = {"image_to_text": to_text, "text_to_image": to_image, "loss": (to_text + to_image) / 2}
    assert actual == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("same", [None, SAME, torch.zeros(5, 5, dtype=torch.bool), torch.ones(5, 5, dtype=torch.bool)])
def test_against_brute_force(same: Tensor | None) -> None:
    image, text = pairs()
    to_text, to_image = brute_force(image, text, 0.07, same)
    for reduction, factor in (("mean", 0.5), ("sum", 1.0)):
        actual = info_nce(image, text, same=same, reduction=reduction)
        assert actual["image_to_text"].item() == pytest.approx(to_text, abs=1e-12)
        assert actual["text_to_image"].item() == pytest.approx(to_image, abs=1e-12)
        assert actual["loss"].item() == pytest.approx(factor * (to_text + to_image), abs=1e-12)
    assert info_nce(image[:1], text[:1])["loss"].item() == 0  # one pair costs nothing
    lengths = torch.tensor([1e-6, 1, 2, 1e6, 3], dtype=torch.float64)[:, None]
    assert info_nce(image * lengths, 1e6 * text, same=same)["loss"].item() == pytest.approx((to_text + to_image) / 2)
    gathered = gathered_info_nce(image, text, same=same, reduction="sum")  # on one process it changes nothing
    assert all(torch.equal(actual[name], gathered[name]) for name in actual)
    leaves = (image.requires_grad_(), text.requires_grad_())
    assert torch.autograd.gradcheck(lambda v, w: info_nce(v, w, sigma=0.3, same=same)["loss"], leaves)
    actual = info_nce(*leaves, same=same)
    assert not actual["image_to_text"].requires_grad and not actual["text_to_image"].requires_grad


def test_a_vector_of_length_zero_is_finite_and_without_gradient() -> None:
    for length in (0.0, 1e-30):
        image, text = (x.float() for x in pairs())
        image[2] *= length
        image.requires_grad_()
        loss = info_nce(image, text)["loss"]
        loss.backward()
        assert loss.isfinite() and image.grad.isfinite().all()
        assert (image.grad[2] == 0).all() and (image.grad[:2] != 0).all()


def test_same_pairs() -> None:
    texts = ["No effusion.", "no  effusion.\n", "Left effusion.", "", "", "No effusion"]
    patients = ["p1", "p2", "p1", "p3", "p4", "p5"]
    actual = same_pairs(texts, patients, "cpu")
    expected = torch.eye(6, dtype=torch.bool)
    for i, j in ((0, 1), (0, 2), (3, 4)):
        expected[i, j] = expected[j, i] = True
    assert torch.equal(actual, expected)
    assert same_pairs(["p1", "x"], ["y", "p1"], "cpu").sum() == 2  # a text is not compared with a patient
    assert same_pairs([], [], "cpu").shape == (0, 0)


def test_faults_are_refused() -> None:
    image, text = pairs()
    for kind, args, options in (
        ("wrong_shape", (image, text[:4]), {}),
        ("wrong_shape", (image[:0], text[:0]), {}),
        ("wrong_shape", (image, text), {"same": SAME[:4]}),
        ("wrong_shape", (image, text), {"same": SAME.long()}),
        ("out_of_range", (image, text), {"sigma": 0.0}),
    ):
        with refused(kind):
            info_nce(*args, **options)  # type: ignore[arg-type]


# --- batches in pieces ---------------------------------------------------------------------------------------------


class TwoTowers(nn.Module):
    def __init__(self, p_dropout: float = 0.0, *, norm: bool = False) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(p_dropout)
        )
        self.image_out = nn.Linear(8, 4)
        self.text = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(p_dropout), nn.Linear(8, 4))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.image_out(self.image(image)), self.text(text)


def network(p_dropout: float = 0.0, *, norm: bool = False, dtype: torch.dtype = torch.float64) -> TwoTowers:
    torch.manual_seed(3)
    return TwoTowers(p_dropout, norm=norm).to(dtype)


SIZES = (3, 3, 2, 1)


def batch(dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    image, text = (torch.randn(sum(SIZES), dim, generator=generator, dtype=torch.float64).to(dtype) for dim in (6, 5))
    return list(zip(image.split(SIZES), text.split(SIZES), strict=True))


def gradients(module: nn.Module) -> list[Tensor]:
    grads = [p.grad for p in module.parameters()]
    assert all(grad is not None and (grad != 0).any() for grad in grads)
    return grads  # type: ignore[return-value]


def run_cached(module: TwoTowers, chunks: list[tuple[Tensor, Tensor]] | None = None, *, extra: bool = False) -> Tensor:
    chunks = batch() if chunks is None else chunks
    cached = CachedEmbeddings(len(chunks), module)
    image, text = cached.embed(lambda i: module(*chunks[i]))
    assert image.dtype == text.dtype == chunks[0][0].dtype
    loss = info_nce(image, text)["loss"]
    loss.backward()
    assert all(p.grad is None for p in module.parameters())
    for i, chunk in enumerate(chunks):
        with cached.replay(i):
            again = module(*chunk)
        surrogate = cached.surrogate(i, again)
        if extra:
            surrogate = surrogate + again[0].square().sum() / 36
        surrogate.backward()
    return loss.detach()


def test_cached_embeddings_give_the_gradients_of_the_whole_batch() -> None:
    whole, pieces = network(), network()
    image, text = (torch.cat(side) for side in zip(*batch(), strict=True))
    for extra in (False, True):
        whole.zero_grad()
        pieces.zero_grad()
        v, w = whole(image, text)
        loss = info_nce(v, w)["loss"]
        (loss + v.square().mean() if extra else loss).backward()
        torch.testing.assert_close(run_cached(pieces, extra=extra), loss.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(gradients(pieces), gradients(whole), rtol=1e-6, atol=1e-9)


def test_the_second_pass_draws_the_dropout_of_the_first() -> None:
    whole, pieces = network(0.4), network(0.4)
    torch.manual_seed(11)
    parts = [whole(*chunk) for chunk in batch()]  # one graph of all, drawn in the same order
    loss = info_nce(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))["loss"]
    loss.backward()
    after = torch.get_rng_state()
    torch.manual_seed(11)
    torch.testing.assert_close(run_cached(pieces), loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(pieces), gradients(whole), rtol=1e-6, atol=1e-9)
    assert torch.equal(torch.get_rng_state(), after)  # what follows draws as if there had been one pass
    torch.manual_seed(12)
    assert not torch.equal(run_cached(network(0.4)), loss.detach())  # the dropout did something


def test_replay_leaves_the_generators_where_they_stood() -> None:
    module, chunks = network(0.4), batch()
    cached = CachedEmbeddings(2)
    first = cached.embed(lambda i: module(*chunks[i]))
    torch.rand(3)  # what else is drawn in between
    before = torch.get_rng_state()
    for i in (1, 0):  # in any order
        with cached.replay(i):
            again = module(*chunks[i])
        for whole, part in zip(first, again, strict=True):
            assert torch.equal(whole[3 * i : 3 * i + 3], part)
        assert torch.equal(torch.get_rng_state(), before)


def test_running_statistics_are_updated_once() -> None:
    once, pieces = network(norm=True), network(norm=True)
    chunks = batch()[:3]  # a lone row has no variance
    for chunk in chunks:
        once(*chunk)
    run_cached(pieces, chunks)
    for name, buffer in once.named_buffers():
        torch.testing.assert_close(dict(pieces.named_buffers())[name], buffer)


def test_cached_embeddings_under_one_autocast_still_reach_the_weights() -> None:
    module = network(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run_cached(module, batch(torch.float32))
    assert len(gradients(module)) == 8


def test_cached_embeddings_refuse_a_wrong_order() -> None:
    module, chunks = network(), batch()
    cached = CachedEmbeddings(2, module)
    with refused("too_early"), cached.replay(0):  # before embed
        pass
    image, text = cached.embed(lambda i: module(*chunks[i]))
    with refused("too_early"):  # without replay
        cached.surrogate(0, module(*chunks[0]))
    with cached.replay(0):
        again = module(*chunks[0])
    with refused("too_early"):  # no gradient yet
        cached.surrogate(0, again)
    info_nce(image, text)["loss"].backward()
    for kind, index, embeddings in (("wrong_shape", 0, [x[:2] for x in again]), ("too_early", 1, again)):
        with refused(kind):
            cached.surrogate(index, embeddings)
    assert cached.surrogate(0, again).requires_grad
    with refused("out_of_range"):
        CachedEmbeddings(0)


# --- retrieval -----------------------------------------------------------------------------------------------------


def groups(num: int, seed: int) -> Tensor:
    codes = torch.from_numpy(np.random.default_rng(seed).integers(0, 5, num))
    return codes[:, None] == codes[None]


def test_chance_is_exact() -> None:
    same = groups(9, 0)
    image, text = pairs(num=9)
    actual = retrieval(image, text, same)
    for k in (1, 5, 9):
        draws = list(combinations(range(9), k))
        expected = np.mean([np.mean([bool(same[i, list(draw)].any()) for draw in draws]) for i in range(9)])
        assert actual[f"chance_r{10 if k == 9 else k}"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_at_once", [1000, 7])
def test_retrieval_against_a_sort(num_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvl.losses.contrastive._QUERIES_AT_ONCE", num_at_once)
    same = groups(40, 1)
    image, text = pairs(num=40)
    actual = retrieval(image, text, same)
    unit = nn.functional.normalize
    scores = unit(image, dim=1) @ unit(text, dim=1).T
    for direction, table in (("i2t", scores), ("t2i", scores.T)):
        order = table.argsort(dim=1, descending=True)
        for k in (1, 5, 10):
            expected = same.gather(1, order[:, :k]).any(dim=1).double().mean()
            assert actual[f"{direction}_r{k}"] == pytest.approx(expected.item(), abs=1e-12)
    assert set(actual) == {f"{d}_r{k}" for d in ("i2t", "t2i", "chance") for k in (1, 5, 10)}


@pytest.mark.parametrize("num", [1, 3, 30])
def test_a_collapsed_model_scores_exactly_chance(num: int) -> None:
    actual = retrieval(torch.ones(num, 3), 2 * torch.ones(num, 3), groups(num, 2))
    for direction in ("i2t", "t2i"):
        for k in (1, 5, 10):
            assert actual[f"{direction}_r{k}"] == pytest.approx(actual[f"chance_r{k}"], abs=1e-12)


def test_retrieval_by_hand() -> None:
    image, text = torch.eye(12), torch.eye(12)
    image[0, 1] = 10  # its own text comes second
    image[2, 3:8] = torch.tensor([6.0, 5, 4, 3, 2])  # sixth
    actual = retrieval(image, text, torch.eye(12, dtype=torch.bool))
    assert [actual[f"i2t_r{k}"] for k in (1, 5, 10)] == pytest.approx([10 / 12, 11 / 12, 1])
    assert actual["t2i_r1"] == pytest.approx(1)  # of text 0 image 0 is the only one that is not orthogonal
    assert [actual[f"chance_r{k}"] for k in (1, 5, 10)] == pytest.approx([1 / 12, 5 / 12, 10 / 12])
    image, text = torch.eye(2)[[0, 0, 0, 0]], torch.eye(2)[[0, 0, 0, 1]]  # ties count on average
    assert retrieval(image, text, torch.eye(4, dtype=torch.bool))["i2t_r1"] == pytest.approx((3 * (1 / 3) + 0) / 4)
    image, text, same = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]], torch.eye(4).bool()  # 0 and 1 are swapped ...
    assert retrieval(image, text, same)["i2t_r1"] == pytest.approx(0.5)
    same[0, 1] = same[1, 0] = True  # ... and say the same
    actual = retrieval(image, text, same)
    assert actual["i2t_r1"] == actual["t2i_r1"] == pytest.approx(1)
    assert actual["chance_r1"] == pytest.approx((2 / 4 + 2 / 4 + 1 / 4 + 1 / 4) / 4)


def test_retrieval_refuses_faults() -> None:
    image, text = pairs()
    same = torch.eye(5, dtype=torch.bool)
    one_sided, not_finite = same.clone(), image.clone()
    one_sided[0, 1] = True
    not_finite[0, 0] = float("nan")
    for kind, *wrong in (
        ("wrong_shape", image, text, same[:4]),
        ("wrong_shape", image[:0], text[:0], same[:0, :0]),
        ("malformed", image, text, one_sided),
        ("malformed", image, text, ~same),
        ("not_finite", not_finite, text, same),
    ):
        with refused(kind):
            retrieval(*wrong)
