"""Segmentation with unlabelled records: EPI and the LV loss of LViT joined to the supervised task.

    L = L_sup + ramp * (weight * (Dice + CE against P > 0.5) + lv_alpha * L_LV)

(with `objective.mode: multiclass` against the most probable class). Dice + CE are the terms of the objective, see
`unlabelled_terms`. The last two act on (row, class) pairs without a mask. The pseudo label P is read from the store,
moved by the record's own affine, mixed with the prediction of this step, and used; what goes back into the store is the
prediction moved back to the record's grid. Where a flip exchanges classes (`data/class_flips.py`), both ways do. With
`semi.view: strong` the network learns P on a harder view of the image, and P is still made of the plain one.

Shapes: N rows, K classes, H W the model's grid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medvl.config import Config, as_read
from medvl.config.objective import CROSS_ENTROPY
from medvl.core.device import to_device
from medvl.core.errors import InputError
from medvl.data.class_flips import ClassFlips
from medvl.data.dataset import Batch, SegmentDataset, collate, fit_image
from medvl.data.geometry import Affine
from medvl.data.record import Record
from medvl.data.text_input import TextInput
from medvl.losses.language_vision import ContrastiveBank, lv_loss
from medvl.losses.pseudo_labels import PseudoLabelStore, beta_at, is_confident, where_sure
from medvl.losses.segmentation import WeightedTerm, segmentation_loss, weighted_terms
from medvl.models.ema import update_average
from medvl.models.masks import class_masks, probs_from_logits
from medvl.models.module import SegmentModel
from medvl.tasks.segment.learner import SegmentLearner
from medvl.tasks.segment.lv_bank import check_bank, make_bank, record_mask
from medvl.text.base import TextEncoder

FloatArray = NDArray[np.float32]
LOGGED_ROWS = 200  # hidden masks that the store is compared with, for the log alone


class SemiLearner(SegmentLearner):
    """`SegmentLearner` whose batches are half unlabelled."""

    def __init__(
        self,
        config: Config,
        module: SegmentModel,
        text: TextInput,
        *,
        records: Sequence[Record],
        classes: Sequence[str],
        hidden: frozenset[str],
        folder: Path,
        encoder: TextEncoder | None,
    ) -> None:
        """
        Args:
            records: of the training split, labelled and unlabelled ones.
            hidden: ids whose masks exist but must not be used; only the log compares them with the pseudo labels.
            folder: where the pseudo labels and the retrieval of the bank are kept: the run's.
            encoder: for the similarity of texts; as it is now, before training.

        Raises:
            InputError: no record is unlabelled, or the bank of the LV loss cannot be made.
        """
        super().__init__(config, module, text)
        self.terms_of_unlabelled = unlabelled_terms(config)
        self.classes, self.hidden, self.folder, self._encoder = tuple(classes), hidden, folder, encoder
        is_open = {r.id: r.id in hidden or any(r.masks.get(name) is None for name in classes) for r in records}
        self._labelled = [r for r in records if not is_open[r.id]]
        self._unlabelled = [r for r in records if is_open[r.id]]
        self._ids = frozenset(r.id for r in self._unlabelled)
        if not self._unlabelled:
            raise InputError.empty(
                "semi is on and no training record is unlabelled",
                expected="empty mask cells, or data.label_fraction below 1",
                remedy="semi.epi: none and semi.lv_bank: none",
            )
        check_bank(config, self._labelled, classes, encoder)
        self.num_without_text = sum(not r.text.strip() for r in self._unlabelled)
        self._store: PseudoLabelStore | None = None
        self._teacher: nn.Module | None = None
        self._bank: ContrastiveBank | None = None
        self._bank_masks: dict[str, FloatArray | None] = {}
        self._pending: list[tuple[str, Affine, Tensor, Any]] = []
        self._sums: dict[str, Tensor] = {}
        self._num_steps = 0
        self._is_twin = False
        self._flips = ClassFlips(self.classes, config.data.augment)

    # -- the loop's hooks

    def begin(self, state: dict[str, Any] | None, number: int) -> None:
        """Make, or open as of the run's save `number`, the pseudo labels, the teacher and the bank.

        Raises:
            InputError: an interrupted run had other training records or texts.
        """
        if state is not None and state.get("records") != self._records_hash():
            raise InputError.mismatch(
                "semi-supervised training goes on with the records and texts that it began with: pseudo labels and "
                "bank are of those",
                file=self.folder,
                remedy="bring the manifest back as it was, or train anew into another folder",
            )
        semi, folder = self.config.semi, self.folder / "pseudo_labels"
        if semi.epi == "labels" and state is None:
            shape = (len(self.classes), *self.config.data.image_size)
            ids = [record.id for record in self._unlabelled]
            self._store = PseudoLabelStore.create(folder, ids, shape, storage=semi.storage, seed=self.config.train.seed)
            if semi.start == "predict":
                self._predict_all("first pseudo labels")
                self._store.checkpoint(number)
        elif semi.epi == "labels":
            self._store = PseudoLabelStore.open(folder, number=number)
        elif semi.epi == "weights":
            self._teacher = deepcopy(self.module).requires_grad_(False).eval()
            if state is not None:
                self._teacher.load_state_dict(state["teacher"])
        if state is not None:  # of the steps of an epoch that was interrupted
            device = next(self.module.parameters()).device
            self._sums = {name: total.to(device) for name, total in state.get("sums", {}).items()}
            self._num_steps = state.get("num_steps", 0)
        if semi.lv_bank != "none":
            texts = [record.text for record in self._unlabelled]
            path = self.folder / "lv_bank.json"
            self._bank = make_bank(
                self.config, self._labelled, self.classes, texts, self._encoder, path, resume=state is not None
            )

    def training_step(self, batch: Batch, module: nn.Module | None = None) -> dict[str, Tensor]:
        """`loss` with graph; `sup_loss`, `unsup_loss`, `lv_loss` detached."""
        self._flush()
        semi, objective = self.config.semi, self.config.objective
        shown = batch if batch.strong is None else replace(batch, image=batch.strong)
        logits = self.logits(shown, module)
        losses = self._loss(logits, batch)
        logits = logits[:, 0] if logits.ndim == 5 else logits  # of a deeply supervised network the full resolution
        open_pairs = ~batch.annotated  # (N, K)
        ramp = 1.0 if semi.ramp == 0 else min(1.0, self.progress / semi.ramp)
        total = losses["loss"]
        parts = {"sup_loss": losses["loss"].detach()}
        if semi.epi != "none":
            needs_plain = batch.strong is not None and self._teacher is None
            plain = self._plain_logits(batch, module) if needs_plain else logits.detach()
            soft = self._pseudo_labels(batch, plain)  # (N, K, H, W)
            target, learned = class_masks(soft, objective.mode).to(logits.dtype), logits
            if semi.min_confidence > 0.5:
                sure = is_confident(soft, semi.min_confidence, objective.mode)  # (N, K or 1, H, W)
                learned, target = where_sure(learned, target, sure, objective.mode)
                part = (sure.flatten(2).float().mean(dim=2) * open_pairs).sum() / open_pairs.sum().clamp(min=1)
                parts["confident_fraction"] = part
            terms = self.terms_of_unlabelled
            unsup = segmentation_loss(learned, target, open_pairs, mode=objective.mode, terms=terms)["loss"]
            total = total + ramp * unsup
            parts["unsup_loss"] = unsup.detach()
            share = (target.flatten(2).float().mean(dim=2) * open_pairs).sum() / open_pairs.sum().clamp(min=1)
            parts["pseudo_fraction"] = share
        if self._bank is not None:
            masks = to_device(self._retrieved(batch), logits.device)  # (N, K, H, W)
            lv = lv_loss(probs_from_logits(logits, objective.mode), masks, open_pairs)
            total = total + ramp * semi.lv_alpha * lv
            parts["lv_loss"] = lv.detach()
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0) + value
        self._num_steps += 1
        return {"loss": total, **parts}

    def after_step(self, step: int) -> None:
        """The teacher follows the weights."""
        if self._teacher is not None:
            update_average(self._teacher, self.module, self.config.semi.beta, step)

    def after_epoch(self) -> dict[str, float]:
        """Update the labels if that is done per epoch; -> means of the epoch, and the store against hidden masks."""
        self._flush()
        if self.config.semi.epi == "labels" and self.config.semi.update == "epoch":
            self._predict_all("pseudo labels")
        values = {name: float(total) / max(self._num_steps, 1) for name, total in self._sums.items()}
        self._sums, self._num_steps = {}, 0
        return values | self._quality()

    def state_dict(self) -> dict[str, Any]:
        """The teacher's weights and the log's sums; the labels are in their own files, led back by their journal."""
        self._flush()
        teacher = {} if self._teacher is None else {"teacher": self._teacher.state_dict()}
        sums = {"sums": dict(self._sums), "num_steps": self._num_steps}
        return teacher | sums | {"records": self._records_hash()}

    def _records_hash(self) -> str:
        rows = [[[record.id, record.text] for record in part] for part in (self._labelled, self._unlabelled)]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def saved(self, number: int) -> None:
        """From here on the journal leads back to here."""
        if self._store is not None:
            self._store.checkpoint(number)

    def twin(self, module: nn.Module) -> SemiLearner:
        """A learner to time steps with: it reads no store and writes none."""
        twin = SemiLearner(
            self.config,
            module,  # type: ignore[arg-type]  # of the same class
            replace(self.text),
            records=[*self._labelled, *self._unlabelled],
            classes=self.classes,
            hidden=self.hidden,
            folder=self.folder,
            encoder=self._encoder,
        )
        twin._is_twin = True
        return twin

    # -- EPI

    @torch.no_grad()
    def _plain_logits(self, batch: Batch, module: nn.Module | None) -> Tensor:
        """(N, K, H, W) of the plain view, as the network predicts: BatchNorm with its statistics, no dropout."""
        network = module or self.module
        was_training = network.training
        logits = self.logits(batch, network.eval())
        network.train(was_training)
        return logits[:, 0] if logits.ndim == 5 else logits

    def _pseudo_labels(self, batch: Batch, logits: Tensor) -> Tensor:
        """(N, K, H, W) soft labels in the view of each unlabelled row (zeros for the others); queues the update."""
        semi = self.config.semi
        if self._teacher is not None:
            with torch.no_grad():
                return probs_from_logits(self.logits(batch, self._teacher), self.config.objective.mode)
        probs = probs_from_logits(logits, self.config.objective.mode)  # (N, K, H, W)
        if self._is_twin or self._store is None:
            return probs
        old = np.zeros(probs.shape, dtype=np.float32)
        past = np.zeros((len(batch.ids), 1, *probs.shape[2:]), dtype=np.float32)
        rows: list[int] = []
        views: list[Affine] = []
        for n, ident in enumerate(batch.ids):
            if ident not in self._store:
                continue
            view = self._view(batch.affines[n])
            visits = self._store.pixel_visits(ident)  # (H, W)
            # In "epoch" mode the label of the last pass is used as it is.
            weight = beta_at(semi.beta, visits, warmup=semi.beta_warmup) if semi.update == "visit" else visits > 0
            weight = np.asarray(weight, dtype=np.float32)
            # Weighted before it is moved: what no view has shown yet has no part in what is interpolated.
            old[n], past[n] = self._moved(view, weight * self._store.read(ident)), view.apply_map(weight)
            rows.append(n)
            views.append(view)
        if rows and semi.update == "visit":
            # Whole, as choosing rows would send their numbers to the device and wait.
            on_host = probs.detach().to("cpu", non_blocking=True)
            event = None
            if probs.is_cuda:
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                event.record()
            self._pending += [(batch.ids[n], view, on_host[n], event) for n, view in zip(rows, views, strict=True)]
        on_device = [to_device(torch.from_numpy(values), probs.device) for values in (old, past)]
        return on_device[0] + (1 - on_device[1]) * probs

    def _flush(self) -> None:
        """Move the last step's predictions back to their records' grids and into the store."""
        for ident, view, probs, event in self._pending:
            assert self._store is not None
            if event is not None:
                event.synchronize()
            height, width = view.target_size
            seen = view.invert_map(np.ones((height, width), dtype=np.float32)) > 0.999
            self._store.update(
                ident,
                view.invert_map(probs.numpy())[self._flips.order(view)],
                seen,
                self.config.semi.beta,
                warmup=self.config.semi.beta_warmup,
            )
        self._pending.clear()

    @torch.no_grad()
    def _predict_all(self, title: str) -> None:
        """One plain prediction of every unlabelled record into the store."""
        assert self._store is not None
        data, device = as_read(self.config), next(self.module.parameters()).device
        dataset = SegmentDataset(
            self._unlabelled, self.classes, data, seed=0, train=False, hidden=self.hidden, all_rows=True
        )
        loader = DataLoader(dataset, batch_size=self.config.train.batch_size, collate_fn=collate)
        was_training = self.module.training
        self.module.eval()
        console = Console(stderr=True)
        batches: Any = loader
        for batch in track(batches, title, len(loader), console=console, disable=not console.is_terminal):
            logits = self.logits(batch.to(device))
            probs = probs_from_logits(logits, self.config.objective.mode).cpu().numpy()
            for ident, one in zip(batch.ids, probs, strict=True):
                self._store.update(ident, one, None, self.config.semi.beta, warmup=self.config.semi.beta_warmup)
        self.module.train(was_training)

    def _view(self, affine: Affine) -> Affine:
        """native -> view, as a map from the record's grid at model size to the view."""
        base = fit_image(affine.source_size, affine.turn, self.config.data)
        return affine.after(base)

    def _moved(self, view: Affine, masks: FloatArray) -> FloatArray:
        """(K, H, W) on the record's grid -> in the view, where a flip exchanges the classes that name sides."""
        return np.stack([view.apply_map(one) for one in masks[self._flips.order(view)]])

    def _quality(self) -> dict[str, float]:
        """Dice of the stored labels against hidden masks: for the log, never for the weights."""
        if self._store is None:
            return {}
        rng = np.random.default_rng(0)
        known = [r for r in self._unlabelled if r.id in self.hidden and self._store.visits(r.id)]
        if not known:
            return {}
        chosen = [known[i] for i in rng.permutation(len(known))[:LOGGED_ROWS]]
        scores = []
        for record in chosen:
            seen = self._store.pixel_visits(record.id) > 0
            labels = class_masks(self._store.read(record.id), self.config.objective.mode) & seen
            for k, name in enumerate(self.classes):
                true = hidden_mask(record, name, self.config)
                if true is not None:
                    total = true.sum() + labels[k].sum()
                    scores.append(1.0 if total == 0 else float(2 * (true * labels[k]).sum() / total))
        visited = [self._store.visits(r.id) for r in self._unlabelled]
        return {
            "store_dice": float(np.mean(scores)) if scores else float("nan"),
            "store_visited": float(np.mean([v > 0 for v in visited])),
            "store_visits": float(np.mean(visited)),
        }

    # -- the LV loss

    def _retrieved(self, batch: Batch) -> Tensor:
        """(N, K, H, W): the bank's mask of each unlabelled row's own text, moved by the row's affine; else zeros."""
        assert self._bank is not None
        result = np.zeros((len(batch.ids), len(self.classes), *self.config.data.image_size), dtype=np.float32)
        for n, (ident, text) in enumerate(zip(batch.ids, batch.source_texts, strict=True)):
            if ident not in self._ids or not text.strip():
                continue
            if text not in self._bank_masks:
                self._bank_masks[text] = self._bank.mask(text)
            mask = self._bank_masks[text]
            if mask is not None:
                view = self._view(batch.affines[n])
                result[n] = self._moved(view, mask)
        return torch.from_numpy(result)


def unlabelled_terms(config: Config) -> tuple[WeightedTerm, ...]:
    """The terms of the objective for pseudo labels.

    Their weights keep their ratios, and the mean of those above 0 is `semi.weight`. The cross entropy has the balance
    of `semi.ce_balance`.
    """
    terms = weighted_terms(config.objective)
    number, total = sum(one.weight > 0 for one in terms), sum(one.weight for one in terms)
    result = []
    for one in terms:
        balance = {"balance": config.semi.ce_balance} if one.term.name == CROSS_ENTROPY else {}
        weight = config.semi.weight * (number * one.weight / total)
        result.append(replace(one, weight=weight, options=one.options | balance))
    return tuple(result)


def hidden_mask(record: Record, name: str, config: Config) -> NDArray[np.bool_] | None:
    """A mask that training may not see, (H, W) bool on the model's grid, for the log."""
    mask = record_mask(record, name, config)
    return None if mask is None else mask > 0.5
