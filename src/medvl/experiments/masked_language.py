"""Masked language modelling: the built-in text encoder learns the language of reports before it sees an image.

BERT's scheme (Devlin et al. 2019, section 3.1): 15 % of the tokens are to be predicted from the rest of the report; of
these 80 % are hidden, 10 % replaced by another token, 10 % left. Hidden means [UNK]: the entry that the encoder meets
later for words it does not know then already means "predict it from the context".

Shapes: N texts, L tokens, M masked tokens, D width, V vocabulary without the special entries.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.config import TrainConfig
from medvl.core.device import usable_device
from medvl.core.errors import InputError, warn
from medvl.core.files import new_folder, write_json, write_text
from medvl.core.provenance import versions
from medvl.data.corpus import Corpus
from medvl.text.builtin import NUM_SPECIAL, PAD_ID, UNKNOWN_ID, BuiltinEncoder
from medvl.train.schedule import learning_rate

P_MASK, P_HIDDEN, P_REPLACED = 0.15, 0.8, 0.1
IGNORED = -100
WINDOW = 32  # batches among which texts are sorted by length
QUIET_EVERY_S = 30.0  # without a terminal a line is printed that often
REPORT = "pretraining.json"
NOTICE = (
    "A text encoder trained by medvl on report texts: vocabulary and weights derive from these reports, and weights\n"
    "can remember wordings. The vocabulary holds no number of more than two digits, and only (parts of) words that\n"
    "stand in reports of at least 3 patients. Treat this folder as you treat the reports.\n"
)


class MaskedLanguageModel(nn.Module):
    """The encoder with BERT's head, whose output weights are the encoder's embedding.

    The head's bias starts at the frequency of the tokens: hundreds of steps would otherwise go into learning it.
    """

    def __init__(self, encoder: BuiltinEncoder, log_frequency: Tensor) -> None:
        """`log_frequency` (V,): logarithm of each token's share of the training texts."""
        super().__init__()
        self.encoder = encoder
        self.transform = nn.Sequential(nn.Linear(encoder.dim, encoder.dim), nn.GELU(), nn.LayerNorm(encoder.dim))
        self.bias = nn.Parameter(log_frequency.clone())

    def forward(self, ids: Tensor, chosen: Tensor) -> Tensor:
        """ids (N, L), chosen (N, L) bool with M true -> token logits (M, V)."""
        hidden = self.transform(self.encoder(ids, ids != PAD_ID)[chosen])  # (M, D)
        # Embeddings are not small; without the root the first guesses would be far surer than they are right.
        logits: Tensor = hidden @ self.encoder.embedding.weight[NUM_SPECIAL:].T / math.sqrt(self.encoder.dim)
        return logits + self.bias


def mask_tokens(ids: Tensor, num_entries: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """ids (N, L) -> what the encoder reads (N, L), and the targets (N, L): the true id where masked, else `IGNORED`.

    Special entries (padding, unknown, empty) are never masked. Each text with a word has at least one masked.

    Args:
        num_entries: size of the vocabulary with its special entries.
        generator: all draws come from it; on the CPU, as `ids`.
    """
    usable = ids >= NUM_SPECIAL
    draw = torch.rand(ids.shape, generator=generator).masked_fill(~usable, 2.0)
    first = draw == draw.min(dim=1, keepdim=True).values
    chosen = ((draw < P_MASK) | first) & usable
    way = torch.rand(ids.shape, generator=generator)
    other = torch.randint(NUM_SPECIAL, num_entries, ids.shape, generator=generator)
    read = ids.masked_fill(chosen & (way < P_HIDDEN), UNKNOWN_ID)
    read = torch.where(chosen & (way >= P_HIDDEN) & (way < P_HIDDEN + P_REPLACED), other, read)
    return read, ids.masked_fill(~chosen, IGNORED)


def pretrain_text(
    corpus: Corpus,
    out: Path,
    *,
    steps: int = 2000,
    dim: int = 128,
    layers: int = 2,
    tokenizer: Path | None = None,
    max_tokens: int | None = None,
    batch_size: int = 32,
    lr: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a built-in text encoder on `corpus` and write it to `out` (the folder that `text.init` takes).

    Returns what pretraining.json holds: loss (nats per masked token), perplexity and accuracy on validation texts,
    with the same tokens masked before and after, and those of a guess by word frequency alone (`unigram`).

    Raises:
        InputError: a size that makes no sense, too few texts, or a folder that is not empty.
    """
    settings = {"steps": steps, "dim": dim, "layers": layers, "batch_size": batch_size, "lr": lr, "seed": seed}
    for name in ("steps", "batch_size", "layers"):
        if settings[name] < 1:
            raise InputError.out_of_range(f"{name} is {settings[name]}", expected="at least 1")
    if not lr > 0:
        raise InputError.out_of_range(f"lr is {lr}", expected="above 0")
    new_folder(out)
    train_texts, val_texts, distinguished_by = corpus.train_and_val()
    where = usable_device(device)
    start = time.monotonic()
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        vocabulary_texts, patients = corpus.rows_of(train_texts)
        encoder = BuiltinEncoder.from_texts(
            vocabulary_texts,
            patients=patients,
            dim=dim,
            layers=layers,
            max_tokens=max_tokens,
            tokenizer=tokenizer,
            seed=seed,
        )
        if len(encoder.vocabulary) <= NUM_SPECIAL + 1:
            what = "no two words stand in training texts of 3 patients"
            raise InputError.empty(what, file=corpus.path, expected="more texts")
        train_rows, val_rows, num_cut = _both(encoder, train_texts, val_texts, corpus)
        log_frequency = _log_frequency(train_rows, len(encoder.vocabulary))
        torch.manual_seed(seed)
        model = MaskedLanguageModel(encoder, log_frequency).to(where)
        p_unknown, encoder.p_unknown = encoder.p_unknown, 0.0  # hiding is this objective's own
        result: dict[str, Any] = {
            "train_texts": len(train_rows),
            "val_texts": len(val_rows),
            "told_apart_by": distinguished_by,
            "texts_cut": num_cut,
            "vocabulary": len(encoder.vocabulary),
            "unknown_val_tokens": _share_unknown(val_rows),
            "parameters": sum(p.numel() for p in encoder.parameters()),
            "unigram": _unigram(log_frequency, val_rows, batch_size),
            "before": _validate(model, val_rows, batch_size),
        }
        _train(model, train_rows, steps=steps, batch_size=batch_size, lr=lr, seed=seed)
        result["after"] = _validate(model, val_rows, batch_size)
        encoder.p_unknown = p_unknown
    result |= {**settings, "minutes": round((time.monotonic() - start) / 60, 2), "versions": versions()}
    encoder.save(out)
    write_text(out / "README.txt", NOTICE)
    write_json(out / REPORT, result)
    return result


def _both(
    encoder: BuiltinEncoder, train_texts: Sequence[str], val_texts: Sequence[str], corpus: Corpus
) -> tuple[list[Tensor], list[Tensor], int]:
    """Ids of the texts of both splits, and how many texts were cut. InputError where a split has none."""
    train_rows, num_cut = _rows(encoder, train_texts)
    val_rows, num_val_cut = _rows(encoder, val_texts)
    if not train_rows or not val_rows:
        raise InputError.empty(
            f"{len(train_rows)} training and {len(val_rows)} validation texts with known words",
            file=corpus.path,
            expected="at least one of each (a validation text that is also a training text does not count)",
        )
    if num_cut + num_val_cut:
        warn(f"{num_cut + num_val_cut} texts are longer than max_tokens {encoder.max_tokens} and were cut")
    return train_rows, val_rows, num_cut + num_val_cut


def _rows(encoder: BuiltinEncoder, texts: Sequence[str]) -> tuple[list[Tensor], int]:
    """Ids of each text that has a known word, and how many texts were cut."""
    rows, num_cut = [], 0
    for text in texts:
        tokens = encoder.tokenize([text])
        num_cut += tokens.num_truncated
        if (tokens.ids >= NUM_SPECIAL).any():
            rows.append(tokens.ids[0])
    return rows, num_cut


def _share_unknown(rows: Sequence[Tensor]) -> float:
    ids = torch.cat(list(rows))
    return float((ids == UNKNOWN_ID).double().mean())


def _pad(rows: Sequence[Tensor]) -> Tensor:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=PAD_ID)  # (N, L)


def _batches(rows: Sequence[Tensor], batch_size: int, seed: int) -> Iterator[tuple[Tensor, torch.Generator]]:
    """Epoch after epoch: padded ids (N, L) of texts alike in length, and the generator that masks them."""
    epoch = 0
    while True:
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        order = torch.randperm(len(rows), generator=generator).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), WINDOW * batch_size):
            window = sorted(order[start : start + WINDOW * batch_size], key=lambda i: len(rows[i]))
            batches += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield _pad([rows[n] for n in batches[i]]), generator
        epoch += 1


def _fixed_masks(rows: Sequence[Tensor], num_entries: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Validation: the same tokens are masked every time."""
    ordered = sorted(rows, key=len)
    generator = torch.Generator().manual_seed(0)
    for start in range(0, len(ordered), batch_size):
        yield mask_tokens(_pad(ordered[start : start + batch_size]), num_entries, generator)


def _train(
    model: MaskedLanguageModel, rows: Sequence[Tensor], *, steps: int, batch_size: int, lr: float, seed: int
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    schedule = TrainConfig(lr=lr, warmup_steps=min(steps // 10, 200) or 1)
    decay = [p for n, p in model.named_parameters() if p.ndim >= 2 and "position" not in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim >= 2 and "position" not in n)]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    device, num_entries = model.bias.device, len(model.encoder.vocabulary)
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("masked language"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )  # fmt: skip
    batches, started, last_line = _batches(rows, batch_size, seed), time.monotonic(), time.monotonic()
    model.train()
    mean_loss = math.nan
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=steps)
        for step in range(steps):
            ids, generator = next(batches)
            read, target = (tensor.to(device) for tensor in mask_tokens(ids, num_entries, generator))
            chosen = target != IGNORED
            loss = F.cross_entropy(model(read, chosen), target[chosen] - NUM_SPECIAL)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(schedule, step, steps, steps)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            now_loss = float(loss.detach())
            mean_loss = now_loss if step == 0 else 0.98 * mean_loss + 0.02 * now_loss
            bar.update(task, advance=1, description=f"loss {mean_loss:.3f}")
            now = time.monotonic()
            if not console.is_terminal and now - last_line > QUIET_EVERY_S:
                left = (now - started) / (step + 1) * (steps - step - 1)
                print(f"step {step + 1}/{steps} loss {mean_loss:.3f} time left {left / 60:.1f} min", file=sys.stderr)
                last_line = now


@torch.no_grad()
def _validate(model: MaskedLanguageModel, rows: Sequence[Tensor], batch_size: int) -> dict[str, float]:
    was_training, device = model.training, model.bias.device
    model.eval()
    loss, right, number = 0.0, 0, 0
    for read, target in _fixed_masks(rows, len(model.encoder.vocabulary), batch_size):
        chosen = target != IGNORED
        true = (target[chosen] - NUM_SPECIAL).to(device)  # (M,)
        token_logits = model(read.to(device), chosen.to(device))
        loss += float(F.cross_entropy(token_logits, true, reduction="sum"))
        right += int((token_logits.argmax(dim=1) == true).sum())
        number += len(true)
    model.train(was_training)
    return _score(loss, right, number)


def _log_frequency(rows: Sequence[Tensor], num_entries: int) -> Tensor:
    """Logarithm of each token's share, each counted once more than it was seen: (V,)."""
    ids = torch.cat(list(rows))
    counts = torch.bincount(ids[ids >= NUM_SPECIAL] - NUM_SPECIAL, minlength=num_entries - NUM_SPECIAL) + 1
    return (counts / counts.sum()).log()


def _unigram(log_frequency: Tensor, rows: Sequence[Tensor], batch_size: int) -> dict[str, float]:
    """A guess by the frequency of the tokens in training."""
    best = int(log_frequency.argmax())
    loss, right, number = 0.0, 0, 0
    for _, target in _fixed_masks(rows, NUM_SPECIAL + len(log_frequency), batch_size):
        true = target[target != IGNORED] - NUM_SPECIAL
        loss -= float(log_frequency[true].sum())
        right += int((true == best).sum())
        number += len(true)
    return _score(loss, right, number)


def _score(loss_sum: float, right: int, number: int) -> dict[str, float]:
    loss = loss_sum / number
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "accuracy": right / number, "tokens": number}
