"""Classification of images: a linear layer on a frozen encoder, or encoder and layer fine-tuned.

Shapes: B images, C channels, H W pixels, D pooled features, K classes, n images of a split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from medvl.config import Config
from medvl.core.device import full_floats, to_device
from medvl.core.distributed import gather_objects, gather_with_grad, sum_over_ranks
from medvl.core.learner import Learner
from medvl.core.progress import track
from medvl.data.class_labels import ClassDataset, ClassLabels
from medvl.data.dataset import Batch, Sample, collate
from medvl.data.text_input import TextInput
from medvl.data.workers import usable_workers
from medvl.metrics.classification import auc
from medvl.tasks.classify.model import Classifier

if TYPE_CHECKING:
    from medvl.tasks.classify.feature_store import FeatureStore

FloatArray = NDArray[np.float32]
MAX_LINES = 20  # classes that the plan lists one by one


class ClassifyLearner(Learner):
    """Binary cross entropy of several labels, or cross entropy of one; missing labels carry no loss."""

    module: Classifier
    metric: str

    def __init__(
        self,
        config: Config,
        module: Classifier,
        classes: Sequence[str],
        weight: FloatArray | None = None,
        *,
        pooled: bool,
    ) -> None:
        """`weight` (K,): see `class_weights`. `pooled`: batches hold features instead of images."""
        self.config, self.module, self.classes, self.pooled = config, module, tuple(classes), pooled
        self.text = TextInput()
        self.metric = "accuracy" if config.classify.labels == "multiclass" else "macro_auc"
        self.weight = None if weight is None else torch.from_numpy(weight)
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._ids: list[str] = []

    def training_step(self, batch: Batch, module: nn.Module | None = None) -> dict[str, Tensor]:
        """`loss` (scalar, with graph): the mean over the known labels of the whole batch of all ranks."""
        top, bottom = self._loss(self._forward(batch, module), _targets(batch))
        return {"loss": sum_over_ranks(top) / sum_over_ranks(bottom).clamp(min=1e-12)}

    def validation_step(self, batch: Batch, module: nn.Module | None = None) -> dict[str, Tensor]:
        """Keeps the logits, for the metric is of all images; -> sums `loss_sum` and `num` over the known labels."""
        logits, target = self._forward(batch, module).float(), _targets(batch)
        self._logits.append(logits)
        self._targets.append(target)
        self._ids += batch.ids
        if batch.repeated is not None:
            target = target.masked_fill(batch.repeated[:, None], torch.nan)
        top, bottom = self._loss(logits, target)
        return {"loss_sum": top.double(), "num": bottom.double()}

    def validation_values(self, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """`macro_auc` over the classes that have both kinds (NaN if none), `loss`; `accuracy` of one label each."""
        logits = gather_with_grad(torch.cat(self._logits)).cpu().double().numpy()
        target = gather_with_grad(torch.cat(self._targets)).cpu().double().numpy()
        ids = gather_objects(self._ids)
        self._logits, self._targets, self._ids = [], [], []
        first = {name: i for i, name in reversed(list(enumerate(ids)))}  # ranks are padded with repetitions
        keep = sorted(first.values())
        logits, target = logits[keep], target[keep]
        measures = {"loss": float(totals["loss_sum"]) / max(float(totals["num"]), 1e-12)}
        scores = logits
        if self.config.classify.labels == "multiclass":
            scores = torch.from_numpy(logits).softmax(dim=1).numpy()
            measures["accuracy"] = float((logits.argmax(axis=1) == target.argmax(axis=1)).mean())
        areas = np.array([auc(scores[:, k], target[:, k]) for k in range(len(self.classes))])
        measures["macro_auc"] = float(np.nanmean(areas)) if not np.isnan(areas).all() else float("nan")
        return {self.metric: measures.pop(self.metric), **measures}

    def twin(self, module: nn.Module) -> ClassifyLearner:
        """A learner of this kind round `module`, to time steps with; what it does leaves no trace in this one."""
        weight = None if self.weight is None else self.weight.numpy()
        return ClassifyLearner(self.config, module, self.classes, weight, pooled=self.pooled)  # type: ignore[arg-type]  # of the same class

    def _forward(self, batch: Batch, module: nn.Module | None) -> Tensor:
        logits: Tensor = (module or self.module)(batch.image, self.pooled)
        return logits

    def _loss(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        weight = None if self.weight is None else to_device(self.weight, logits.device)
        return label_loss(logits, target, multiclass=self.config.classify.labels == "multiclass", weight=weight)


def label_loss(
    logits: Tensor, target: Tensor, *, multiclass: bool, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross entropy of class labels as (sum, what to divide it by).

    Args:
        logits, target: (B, K), target in {0, 1} and NaN = missing, which carries no loss. With `multiclass` each row
            has one 1, or is NaN throughout.
        weight: (K,) of the positives of a class; with `multiclass` of its images, and then the divisor is the sum of
            the weights, as in torch.
    """
    logits, target = full_floats(logits), full_floats(target)
    known = ~torch.isnan(target)
    filled = torch.nan_to_num(target)
    if multiclass:
        row_known = known.all(dim=1)  # (B,)
        row_weight = row_known.to(logits.dtype)
        if weight is not None:
            row_weight = row_weight * weight[filled.argmax(dim=1)]
        loss = F.cross_entropy(logits, filled.argmax(dim=1), reduction="none") * row_weight  # (B,)
        return loss.sum(), row_weight.sum()
    loss = F.binary_cross_entropy_with_logits(logits, filled, pos_weight=weight, reduction="none")  # (B, K)
    return (loss * known).sum(), known.sum().to(logits.dtype)


def class_weights(labels: ClassLabels, multiclass: bool) -> FloatArray:
    """`classify.pos_weight: balanced`, (K,): negatives over positives; of one label each n / (K images of the class).

    A class without positives or without negatives has the weight 1.
    """
    counts = labels.per_class()
    weights = np.ones(len(labels.classes), dtype=np.float32)
    for k, name in enumerate(labels.classes):
        positive, negative = counts[name]["positive"], counts[name]["negative"]
        if positive and multiclass:
            weights[k] = len(labels.records) / (len(labels.classes) * positive)
        elif positive and negative:
            weights[k] = negative / positive
    return weights


def classify_lines(config: Config, labels: Mapping[str, ClassLabels], fraction: Mapping[str, Any]) -> list[str]:
    """What the plan says of the labels of train and val: how many of each class, what was left out, what is trained."""
    settings, train, val = config.classify, labels["train"], labels["val"]
    kind = "one of" if settings.labels == "multiclass" else "any of"
    lines = [f"  labels {kind} {len(train.classes)} classes; positives in train and val:"]
    counts, val_counts = train.per_class(), val.per_class()
    width = max(map(len, train.classes[:MAX_LINES]))
    for name in train.classes[:MAX_LINES]:
        counts_text = []
        for part in (counts[name], val_counts[name]):
            unknown = f" ({part['unknown']} unknown)" if part["unknown"] else ""
            counts_text.append(f"{part['positive']} of {part['positive'] + part['negative']}{unknown}")
        lines.append(f"         {name:<{width}}  {counts_text[0]}, {counts_text[1]}")
    if len(train.classes) > MAX_LINES:
        lines.append(f"         and {len(train.classes) - MAX_LINES} more, in plan.json")
    rare = [name for name in train.classes if not counts[name]["positive"]]
    if rare:
        lines.append(f"         NO positive in train: {', '.join(rare)}")
    undefined = [name for name in val.classes if not val_counts[name]["positive"] or not val_counts[name]["negative"]]
    if undefined:
        lines.append(f"         no AUC in val, left out of the macro mean: {', '.join(undefined)}")
    for name, split in labels.items():
        left_out = split.counts
        left = [f"{left_out['same_image']} further records of an image"] if left_out["same_image"] else []
        if left_out["not_labelled"]:
            left.append(
                f"{left_out['not_labelled']} without a known label ({left_out['empty_cells']} of these: empty cell)"
            )
        if left_out["without_any_class"]:
            lines.append(f"         {name}: {left_out['without_any_class']} images have none of the classes")
        if left_out["other_names"]:
            others = ", ".join(f"{key} {num}" for key, num in left_out["other_names"].items())
            left.append(f"labels that are no class: {others}")
        if left:
            lines.append(f"         {name}: not used: {'; '.join(left)}")
    if fraction["label_fraction"] < 1:
        lines.append(
            f"         {100 * fraction['label_fraction']:.3g}%: {fraction['labelled_images']} images of "
            f"{fraction['labelled_patients']} patients (draw {fraction['label_seed']}"
            f"{', by image' if fraction['label_by'] == 'image' else ''}), "
            f"{fraction['left_out_images']} images left out"
        )
    if settings.pos_weight == "balanced":
        lines.append("         positives and negatives of a class have the same weight (classify.pos_weight)")
    if settings.mode == "linear":
        lines.append(
            "  mode   linear: the encoder is frozen (eval mode), its features are computed once, without augmentation"
        )
    else:
        lines.append(f"  mode   finetune: all parameters, augmentation {config.data.augment.scheme}")
    return lines


@torch.no_grad()
def pooled_features(
    module: Classifier,
    dataset: ClassDataset | Subset[Sample],
    device: torch.device,
    *,
    batch_size: int,
    num_workers: int,
    label: str,
    store: FeatureStore | None = None,
) -> FloatArray:
    """The encoder's pooled features of every image of an unaugmented dataset, in eval mode: (n, D) float32.

    `store`: where they are kept, but for a subset's. Those that another run has left there may differ in the last
    digits from ones computed here, for other images shared their batches.
    """

    def compute(indices: Sequence[int]) -> FloatArray:
        return _over(module, Subset(dataset, indices), device, batch_size, num_workers, label, head=False)

    if store is None or isinstance(dataset, Subset):
        return compute(range(len(dataset)))
    return store.features([rows[0].image for rows in dataset.groups], compute)


@torch.no_grad()
def predicted_logits(
    module: Classifier, dataset: ClassDataset, device: torch.device, *, batch_size: int, num_workers: int, label: str
) -> FloatArray:
    """Logits of every image of an unaugmented dataset, in eval mode: (n, K) float32."""
    return _over(module, dataset, device, batch_size, num_workers, label, head=True)


def _over(
    module: Classifier,
    dataset: ClassDataset | Subset[Sample],
    device: torch.device,
    batch_size: int,
    num_workers: int,
    label: str,
    head: bool,
) -> FloatArray:
    was_training = module.training
    module.eval().to(device)
    loader: Any = DataLoader(
        dataset,
        batch_size=batch_size,
        collate_fn=collate,
        num_workers=usable_workers(num_workers),
        generator=torch.Generator().manual_seed(0),  # the loader draws from its own, not the global one
    )
    parts = []
    for batch in track(loader, label, len(loader)):
        image = batch.image.to(device)
        parts.append((module(image) if head else module.network.pool(image)).float().cpu().numpy())
    module.train(was_training)
    return np.concatenate(parts)


def _targets(batch: Batch) -> Tensor:
    return batch.target.flatten(1)  # (B, K)
