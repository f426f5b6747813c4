"""Two real processes (gloo) against one: collectives, BatchNorm, the losses and whole training steps under DDP.

The two processes are started once; what they found is compared here with one process that has the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from faults import refused
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medvl.core.distributed import (
    gather_objects,
    gather_with_grad,
    rank,
    stack_over_ranks,
    sum_over_ranks,
    world_size,
)
from medvl.losses.contrastive import CachedEmbeddings, gathered_info_nce, info_nce, same_pairs
from medvl.losses.pixel_alignment import (
    pixel_alignment_loss,
    reconstruction_loss,
    released_pixel_alignment_loss,
)
from medvl.losses.segmentation import cross_entropy_loss, dice_loss
from medvl.models.batch_norm import batch_norm_over_ranks, convert_batch_norm
from medvl.models.vit import UpsampledBatchNorm2d

Found = dict[str, Any]
BATCH = 6
UNEVEN = ((4, 2), (6, 0))  # rows of each rank
TEXTS = ["no effusion", "effusion", "No effusion", "mass", "nodule", "effusion"]
PATIENTS = ["a", "b", "c", "d", "d", "e"]
NAMES: tuple[list[Any], list[Any]] = (["a", "Ärzte \udc80"], [("c1", "text"), "", "d"])


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_rank(number: int, sizes: tuple[int, ...]) -> slice:
    return slice(sum(sizes[:number]), sum(sizes[: number + 1]))


# --- what both run -------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """A tiny network with every kind of BatchNorm, two towers and mask logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.low = nn.Sequential(nn.Conv2d(4, 4, 2, stride=2), UpsampledBatchNorm2d(4, 4), nn.Upsample(scale_factor=2))
        self.head = nn.Conv2d(4, 3, 1)
        self.image = nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 3))
        self.text = nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 3))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.stem(image)
        x = x + self.low(x)
        return self.image(x.mean(dim=(2, 3))), self.text(text), self.head(x)


class Towers(nn.Module):
    """Rows that do not see each other, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))
        self.text = nn.Linear(4, 3)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.image(image), self.text(text)


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(5)
    return kind().double()


def batch(step: int, rows: slice) -> dict[str, Tensor]:
    """Rank 1 has no foreground of class 0 and nothing annotated of class 1."""
    labels = torch.randint(0, 3, (BATCH, 4, 4), generator=torch.Generator().manual_seed(step))
    labels[3:][labels[3:] == 1] = 0
    annotated = torch.ones(BATCH, 2, dtype=torch.bool)
    annotated[3:, 1] = False
    whole = {
        "image": drawn(BATCH, 1, 4, 4, seed=10 + step) * torch.arange(1, BATCH + 1)[:, None, None, None],
        "text": drawn(BATCH, 4, seed=20 + step),
        "target": torch.stack([labels == 1, labels == 2], dim=1).double(),
        "annotated": annotated,
    }
    return {name: value[rows] for name, value in whole.items()}


def loss_of(module: nn.Module, step: int, rows: slice) -> Tensor:
    data = batch(step, rows)
    image, text, logits = module(data["image"], data["text"])
    same = same_pairs(TEXTS[rows], PATIENTS[rows], "cpu", equal_rows=True)
    vla = gathered_info_nce(image, text, same=same, sigma=0.5, equal_rows=True)["loss"]
    bce = cross_entropy_loss(logits[:, 1:], data["target"], data["annotated"])
    ce = cross_entropy_loss(logits, data["target"], data["annotated"], mode="multiclass")
    dice = dice_loss(logits[:, 1:], data["target"])  # a mean over a rank's own rows
    of_batch = dice_loss(logits[:, 1:], data["target"], data["annotated"], form="log_batch")
    return vla + bce + ce + dice + of_batch


def train(module: nn.Module, wrapped: nn.Module, optimizer: torch.optim.Optimizer, rows: slice) -> Found:
    """Two steps: losses, gradients of the first, weights and buffers afterwards."""
    losses, gradients = [], {}
    for step in range(2):
        optimizer.zero_grad()
        loss = loss_of(wrapped, step, rows)
        loss.backward()
        losses.append(loss.detach())
        if step == 0:
            gradients = {name: p.grad.clone() for name, p in module.named_parameters()}  # type: ignore[union-attr]
        optimizer.step()
    return {"losses": losses, "gradients": gradients, "state": module.state_dict()}


DECODERS: dict[str, Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]] = {
    "pseudo mask": pixel_alignment_loss,
    "pseudo mask, released": released_pixel_alignment_loss,
    "reconstruction": lambda logits, target, _: reconstruction_loss(logits, target),
}


def decoder_losses(module: nn.Module, wrapped: nn.Module, rows: slice) -> Found:
    """Loss and gradients of what G2D's decoder is trained with; the valid pairs lie unevenly over the rows."""
    valid = torch.ones(BATCH, 3, dtype=torch.bool)
    valid[3:, 1:] = False
    valid[5] = False
    target = torch.rand(BATCH, 3, 4, 4, generator=torch.Generator().manual_seed(9))
    found = {}
    for name, loss in DECODERS.items():
        module.zero_grad()
        data = batch(0, rows)
        losses = loss(wrapped(data["image"], data["text"])[2], target[rows], valid[rows])
        losses["loss"].backward()
        gradients = {key: p.grad.clone() for key, p in module.named_parameters() if p.grad is not None}
        found[name] = {"losses": {key: value.detach() for key, value in losses.items()}, "gradients": gradients}
    return found


# --- the two processes ---------------------------------------------------------------------------------------------


def process(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=number, world_size=2, timeout=timedelta(seconds=60)
    )
    found = {
        "collectives": collectives(number),
        "uneven": [uneven(of_rank(number, sizes)) for sizes in UNEVEN],
        **under_ddp(of_rank(number, (3, 3))),
        "decoders": [decoders(of_rank(number, sizes)) for sizes in ((3, 3), (4, 2))],
    }
    torch.save(found, f"{folder}/{number}.pt")
    dist.barrier()
    dist.destroy_process_group()


def collectives(number: int) -> Found:
    rows, scale = (3, 1)[number], 1.0 + number
    x = (scale * torch.arange(2.0 * rows).view(rows, 2)).requires_grad_()
    gathered = gather_with_grad(x)
    (gathered * torch.arange(8.0).view(4, 2) * scale).sum().backward()  # the ranks' losses differ
    y = torch.tensor([scale, 3.0]).requires_grad_()
    total = sum_over_ranks(y)
    (total.square() * scale).sum().backward()
    empty = torch.zeros((2, 0)[number], 2, requires_grad=True)
    gather_with_grad(empty).sum().backward()
    return {
        "sizes": (world_size(), rank()), "gathered": gathered.detach(), "x.grad": x.grad, "total": total.detach(),
        "y": y.detach(), "y.grad": y.grad, "empty.grad": empty.grad, "stacked": stack_over_ranks(y),
        "whole numbers": gather_with_grad(torch.full((rows,), number)), "objects": gather_objects(NAMES[number]),
        "no objects": gather_objects(["x"] * number),
    }  # fmt: skip


def uneven(rows: slice) -> Found:
    """BatchNorm and InfoNCE where the ranks have different numbers of rows; the ranks' losses are sums."""
    x, gain = drawn(BATCH, 3, 2, seed=1)[rows].requires_grad_(), drawn(3, seed=2).requires_grad_()
    out, mean, variance, num = batch_norm_over_ranks(x, gain, None, 1e-5)
    (out * drawn(BATCH, 3, 2, seed=3)[rows]).sum().backward()
    image, text = (drawn(BATCH, 3, seed=seed)[rows].requires_grad_() for seed in (4, 5))
    loss = gathered_info_nce(image, text, sigma=0.3)["loss"]
    loss.backward()
    return {
        "rows": [out.detach(), x.grad, image.grad, text.grad],
        "whole": [mean, variance, num, loss.detach()],
        "gain.grad": gain.grad,
        "same": same_pairs(TEXTS[rows], PATIENTS[rows], "cpu"),
    }


def under_ddp(rows: slice) -> Found:
    module = convert_batch_norm(made(Network), torch.device("cpu"))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    trained = train(module, DistributedDataParallel(module), optimizer, rows)
    module.eval()
    data = batch(2, rows)
    trained["eval"] = module(data["image"], data["text"])[2].detach()

    towers = made(Towers)
    wrapped = DistributedDataParallel(towers)
    chunks = [slice(rows.start, rows.start + 2), slice(rows.start + 2, rows.stop)]
    vectors = [drawn(BATCH, 4, seed=seed) for seed in (6, 7)]
    torch.manual_seed(100 + rank())
    cached = CachedEmbeddings(len(chunks))
    image, text = cached.embed(lambda i: wrapped(*(v[chunks[i]] for v in vectors)))
    loss = gathered_info_nce(image, text, sigma=0.5)["loss"]
    loss.backward()
    for i, chunk in enumerate(chunks):
        with wrapped.no_sync() if i + 1 < len(chunks) else nullcontext():
            with cached.replay(i):
                again = wrapped(*(v[chunk] for v in vectors))
            cached.surrogate(i, again).backward()
    gradients = {name: p.grad for name, p in towers.named_parameters()}
    return {"trained": trained, "cached": {"loss": loss.detach(), "gradients": gradients}}


def decoders(rows: slice) -> Found:
    module = convert_batch_norm(made(Network), torch.device("cpu"))
    return decoder_losses(module, DistributedDataParallel(module, find_unused_parameters=True), rows)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of the two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(process, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{number}.pt", weights_only=False) for number in range(2)]


# --- comparisons ---------------------------------------------------------------------------------------------------


def close(actual: object, expected: object) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


def test_collectives(two: list[Found]) -> None:
    for number, found in enumerate(one["collectives"] for one in two):
        assert found["sizes"] == (2, number)
        assert found["gathered"].tolist() == [[0, 1], [2, 3], [4, 5], [0, 2]]
        weights = 3 * torch.arange(8.0).view(4, 2)  # (1 + 2): the sum over the ranks' losses
        assert torch.equal(found["x.grad"], weights[of_rank(number, (3, 1))])
        assert found["total"].tolist() == [3, 6]
        assert found["y"].tolist() == [1 + number, 3]  # its own is not overwritten
        assert found["y.grad"].tolist() == [2 * 3 * 3, 2 * 6 * 3]
        assert found["empty.grad"].tolist() == [[2, 2]] * (2, 0)[number]
        assert found["stacked"].tolist() == [[1, 3], [2, 3]]
        assert found["whole numbers"].tolist() == [0, 0, 0, 1]
        assert found["objects"] == NAMES[0] + NAMES[1]
        assert found["no objects"] == ["x"]


@pytest.mark.parametrize("case", range(len(UNEVEN)), ids=str)
def test_different_numbers_of_rows(two: list[Found], case: int) -> None:
    whole = uneven(slice(None))
    parts = [one["uneven"][case] for one in two]
    image_and_text = whole["rows"][2:]  # both ranks' losses are the whole one, so what flows back is twice its gradient
    expected = [*whole["rows"][:2], *(2 * grad for grad in image_and_text)]
    close([torch.cat(rows) for rows in zip(*(part["rows"] for part in parts), strict=True)], expected)
    for part in parts:
        close(part["whole"], whole["whole"])
        assert torch.equal(part["same"], whole["same"])
    close(parts[0]["gain.grad"] + parts[1]["gain.grad"], whole["gain.grad"])


def test_two_processes_train_as_one_with_the_whole_batch(two: list[Found]) -> None:
    module = made(Network)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    whole = train(module, module, optimizer, slice(None))
    first, second = (one["trained"] for one in two)
    assert whole["gradients"] and all((grad != 0).any() for grad in whole["gradients"].values())
    for part in (first, second):
        close(part["gradients"], whole["gradients"])
        close(part["state"], whole["state"])
    # The mean over ranks of the ranks' losses is what was trained: only Dice is a rank's own.
    close([(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)], whole["losses"])
    module.eval()
    data = batch(2, slice(None))
    close(torch.cat([first["eval"], second["eval"]]), module(data["image"], data["text"])[2].detach())


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("case", [0, 1], ids=["3 and 3 rows", "4 and 2 rows"])
def test_the_decoders_losses_are_those_of_the_whole_batch(two: list[Found], case: int, name: str) -> None:
    module = made(Network)
    whole = decoder_losses(module, module, slice(None))[name]
    assert all((whole["gradients"][key] != 0).any() for key in ("stem.0.weight", "low.0.weight", "head.weight"))
    for part in (one["decoders"][case][name] for one in two):
        torch.testing.assert_close(part["losses"], whole["losses"], rtol=1e-5, atol=1e-6)
        for key, gradient in whole["gradients"].items():
            torch.testing.assert_close(part["gradients"][key], gradient, rtol=1e-5, atol=1e-6)


def test_the_batch_needs_all_of_it(two: list[Found]) -> None:
    """Without the exchange the numbers would differ: torch's BatchNorm and each rank's own negatives."""
    module = made(Network)
    own = torch.stack([loss_of(module, 0, of_rank(number, (3, 3))) for number in range(2)]).mean()
    assert (own - two[0]["trained"]["losses"][0]).abs() > 1e-2


def test_cached_embeddings_over_two_processes(two: list[Found]) -> None:
    towers = made(Towers)
    vectors = [drawn(BATCH, 4, seed=seed) for seed in (6, 7)]
    parts = []
    for number in range(2):
        torch.manual_seed(100 + number)
        for chunk in (slice(3 * number, 3 * number + 2), slice(3 * number + 2, 3 * number + 3)):
            parts.append(towers(*(v[chunk] for v in vectors)))
    loss = info_nce(*(torch.cat(side) for side in zip(*parts, strict=True)), sigma=0.5)["loss"]
    loss.backward()
    for one in two:
        close(one["cached"]["loss"], loss.detach())
        close(one["cached"]["gradients"], {name: p.grad for name, p in towers.named_parameters()})


def test_on_one_process_nothing_happens() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    assert gather_with_grad(x) is x and sum_over_ranks(x) is x
    assert (world_size(), rank()) == (1, 0)
    assert stack_over_ranks(x).shape == (1, 2, 3) and not stack_over_ranks(x).requires_grad
    assert gather_objects(["a", "b"]) == ["a", "b"]
    with refused("wrong_shape"):
        gather_with_grad(torch.tensor(1.0))


def test_a_group_of_one_process_is_one_process(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        test_on_one_process_nothing_happens()
    finally:
        dist.destroy_process_group()
