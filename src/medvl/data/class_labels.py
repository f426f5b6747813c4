"""Class labels of images: manifest -> classes, a matrix in {0, 1, NaN}, one sample per image.

`labels` holds what is there (`|` separates), the further column `labels_unknown` what nothing is known of (NaN: no
loss, not scored); every other class is absent. An empty cell is not annotated (NaN for every class); `none`, and a
label that `classify.negative_names` lists, say that every class is absent. With `labels: multilabel` names like
`No Finding` or `normal` are read so too, with a warning, unless `classify.classes` lists them; with `multiclass` they
are classes of their own. `classify.labels_from` takes them from the texts instead: `labels_of_text`.

Shapes: n images, K classes, D features.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from medvl.core.errors import Fault, InputError, nearest, warn
from medvl.data.class_flips import ClassFlips
from medvl.data.dataset import Sample, SegmentDataset
from medvl.data.labels import label_units, labelled_patients
from medvl.data.record import ABSENT, MaskRef, Record
from medvl.data.reports import findings
from medvl.data.reports.terms import canonical_term
from medvl.data.sampler import REPEATED

if TYPE_CHECKING:
    from medvl.config import ClassifyConfig, Config, DataConfig

FloatArray = NDArray[np.float32]
UNKNOWN_COLUMN = "labels_unknown"
MAX_LISTED = 20  # faults of one kind that are listed one by one
NOTHING_THERE = frozenset(  # labels that say that there is none, as label tables write them
    "normal healthy negative none no_finding no_findings no_abnormality no_abnormalities no_disease nofinding "
    "unremarkable no_significant_abnormality no_acute_findings".split()
)


@dataclass(frozen=True, slots=True)
class ClassLabels:
    """Images that are labelled, one record each, and their labels (n, K) in {0, 1, NaN}.

    `counts`: what was left out: `same_image` (further records of an image), `not_labelled` (nothing is known of any
    class; `empty_cells` of these have an empty cell), `other_names` (name -> images; labels that are no class, which
    are ignored); and `without_any_class`, the images that are kept and have none.
    """

    classes: tuple[str, ...]
    records: tuple[Record, ...]
    values: FloatArray
    counts: dict[str, Any]

    def per_class(self) -> dict[str, dict[str, int]]:
        """{class: {positive, negative, unknown}}."""
        positive, unknown = (self.values == 1).sum(axis=0), np.isnan(self.values).sum(axis=0)
        return {
            name: {
                "positive": int(positive[k]),
                "negative": len(self.values) - int(positive[k]) - int(unknown[k]),
                "unknown": int(unknown[k]),
            }
            for k, name in enumerate(self.classes)
        }

    def take(self, keep: NDArray[np.bool_]) -> ClassLabels:
        """The images where `keep` (n,) is true."""
        records = tuple(row for row, kept in zip(self.records, keep, strict=True) if kept)
        return replace(self, records=records, values=self.values[keep])


def with_labels(records: Sequence[Record], config: ClassifyConfig) -> Sequence[Record]:
    """The records with the labels that `classify.labels_from` says: their own, or those of their texts."""
    source = config.labels_from
    if source == "labels":
        return records
    named = {term: name for name, terms in source.items() for term in terms} if isinstance(source, dict) else None
    result = []
    for record in records:
        labels = labels_of_text(record.text, named)
        absent = not labels and bool(record.text.strip())
        extra = {key: value for key, value in record.extra.items() if key != UNKNOWN_COLUMN}
        result.append(replace(record, labels=labels, labels_absent=absent, extra=extra))
    return result


def labels_of_text(text: str, named: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The findings that an English report names and does not deny, in canonical words, by name.

    What it does not mention is absent, as in the usual labels of reports.

    Args:
        named: word -> the class that it counts as; other words count as none. None: each word is a class.
    """
    terms = {canonical_term(one.term) for one in findings(text) if one.term is not None and not one.negated}
    return tuple(sorted(terms if named is None else {named[term] for term in terms if term in named}))


def find_classes(records: Sequence[Record], config: ClassifyConfig) -> tuple[str, ...]:
    """The classes of a training split: `classify.classes`, or every label seen there, by name.

    A label that says that there is none (`No Finding`) is no class of several labels unless it is listed, with
    a warning.

    Raises:
        InputError: no labels at all; a class or negative name that no record has; a name that is both.
    """
    seen = Counter(name for row in records for name in (*row.labels, *_unknown(row)))
    if not seen:
        raise InputError.empty(
            "no record of the train split has a label",
            expected="names in the column labels, with | between; none where it was looked for and absent",
            remedy="medvl data import reads the label tables of public sets",
        )
    faults = []
    for key, names in (("classes", config.classes or []), ("negative_names", config.negative_names)):
        for name in names:
            if name not in seen and name.lower() != ABSENT:
                like = nearest(name, seen)
                remedy = f"did you mean {like}?" if like else f"labels there: {', '.join(sorted(seen)[:MAX_LISTED])}"
                faults.append(Fault.unknown(f"classify.{key}: no record of the train split has {name}", remedy=remedy))
    for name in sorted(set(config.classes or []) & set(config.negative_names)):
        faults.append(Fault.conflict(f"{name} is in classify.classes and in classify.negative_names"))
    listed = bool(config.classes) or config.labels == "multiclass"
    nothing = set() if listed else {name for name in seen if says_nothing(name)}
    for name in sorted(nothing - set(config.negative_names)):
        warn(
            f"label {name!r} ({seen[name]} training records) is read as 'looked for and absent'; "
            "classify.classes makes it a class of its own, classify.negative_names silences this"
        )
    classes = tuple(config.classes or sorted(set(seen) - set(config.negative_names) - nothing))
    if len(set(classes)) < len(classes):
        faults.append(Fault.duplicate("classify.classes names a class twice"))
    if not classes and not faults:
        faults.append(Fault.empty("every label says that there is none", expected="at least one class"))
    if config.labels == "multiclass" and config.negative_names:
        faults.append(
            Fault.conflict(
                "classify.negative_names with labels: multiclass", remedy="there such a name is a class of its own"
            )
        )
    if config.labels == "multiclass" and len(classes) < 2:
        faults.append(
            Fault.empty("labels: multiclass with one class", expected="two or more", remedy="labels: multilabel")
        )
    if faults:
        raise InputError(faults)
    warn_spellings(classes, "classify.classes")
    return classes


def warn_spellings(classes: Sequence[str], key: str) -> None:
    """Warn of classes that differ in capitals, blanks, hyphens or underscores alone. `key` chooses the classes."""
    spellings: dict[str, list[str]] = {}
    for name in classes:
        spellings.setdefault("".join(re.split(r"[\W_]+", name.casefold())), []).append(name)
    several = [" and ".join(map(repr, names)) for names in spellings.values() if len(names) > 1]
    if several:
        warn(
            f"classes that differ in their spelling alone: {'; '.join(several)}; each is a class of its own: "
            f"write them alike in the table, or choose by {key}"
        )


def class_labels(
    records: Sequence[Record], classes: Sequence[str], config: ClassifyConfig, file: Path | None = None
) -> ClassLabels:
    """The labels of some records. Records that share an image count once.

    Args:
        file: the manifest, for the message.

    Raises:
        InputError: records of one image with different labels, a name that is both there and unknown, a negative name
            beside a class; with `labels: multiclass` an image that has not exactly one class.
    """
    faults: list[Fault] = []
    first: dict[Path, Record] = {}
    kept: list[Record] = []
    rows: list[FloatArray] = []
    others: Counter[str] = Counter()
    num_same = num_without = num_blank = num_absent = 0
    for record in records:
        before = first.setdefault(record.image, record)
        if before is not record:
            num_same += 1
            if _label_key(before) != _label_key(record):
                what = f"the labels differ from those of {before.id}, which has the same image"
                faults.append(Fault.mismatch(what, file, record.line, record.id, expected="the same labels"))
            continue
        named = set(record.labels) - {*classes, *config.negative_names}
        others.update(name for name in named if config.labels == "multiclass" or not says_nothing(name))
        row, fault = _row(record, classes, config)
        if fault is not None:
            faults.append(replace(fault, file=file, line=record.line, record=record.id))
        elif np.isnan(row).all():
            num_without += 1
            num_blank += not has_labels(record) and not _unknown(record)
        else:
            kept.append(record)
            rows.append(row)
            num_absent += not np.nan_to_num(row).any()
    if faults:
        more = (
            [Fault(f"and {len(faults) - MAX_LISTED} more", file, kind=faults[0].kind)]
            if len(faults) > MAX_LISTED
            else []
        )
        raise InputError(faults[:MAX_LISTED] + more)
    values = np.stack(rows) if rows else np.zeros((0, len(classes)), dtype=np.float32)
    counts = {
        "same_image": num_same,
        "not_labelled": num_without,
        "empty_cells": num_blank,
        "without_any_class": num_absent,
        "other_names": dict(sorted(others.items())),
    }
    return ClassLabels(tuple(classes), tuple(kept), values, counts)


class _Labels(Protocol):
    """Labels of images: these, or boxes."""

    @property
    def records(self) -> tuple[Record, ...]: ...

    def take(self, keep: NDArray[np.bool_]) -> Self: ...


Labels = TypeVar("Labels", bound=_Labels)


def labelled_part(labels: Labels, config: Config) -> tuple[Labels, dict[str, Any]]:
    """The images in `data.label_fraction` (the nested draw of `labelled_patients`), and counts."""
    seed = config.train.seed if config.data.label_seed is None else config.data.label_seed
    # The draw is among units with an annotation, which for segmentation is a mask.
    annotated = [replace(row, masks={"labels": MaskRef(None)}) for row in labels.records]
    by = config.data.label_by
    units, unit_of = labelled_patients(annotated, config.data.label_fraction, seed, by), label_units(annotated, by)
    part = labels.take(np.array([unit_of[row.id] in units for row in labels.records], dtype=bool))
    counts = {
        "label_fraction": config.data.label_fraction,
        "label_seed": seed,
        "label_by": config.data.label_by,
        "labelled_patients": len({row.patient for row in part.records}),
        "labelled_images": len(part.records),
        "left_out_images": len(labels.records) - len(part.records),
    }
    return part, counts


class ClassDataset(SegmentDataset):
    """One sample per image with its class labels as the target (1, K, 1, 1); texts and masks are not read."""

    def __init__(self, labels: ClassLabels, config: DataConfig, *, seed: int, train: bool) -> None:
        """`train`: augmented (`data.augment`), anew in every epoch."""
        rows = [replace(row, text="", masks={}) for row in labels.records]
        config = replace(config, phrases_per_image=1, p_empty_text=0.0, draw_by=None)
        super().__init__(rows, (), config, seed=seed, train=train)
        self.values = labels.values
        self._label_flips = ClassFlips(labels.classes, config.augment) if train else None

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        index = item[1] if isinstance(item, tuple) else item
        sample = super().__getitem__(item)
        values = self.values[index]
        if self._label_flips is not None:
            values = values[self._label_flips.order(sample.affine)]
        return replace(sample, target=values[None, :, None, None])


class FeatureDataset(Dataset[Sample]):
    """The images of a `ClassDataset` as their pooled features (D, 1, 1), which are computed once."""

    def __init__(self, source: ClassDataset, features: FloatArray | Callable[[Sequence[int] | None], FloatArray]):
        """`features` (n, D), in the order of `source`; or what gives those of some indices, or (None) of all."""
        self.source = source
        self._compute = features if callable(features) else None
        self._features = None if callable(features) else features
        if not callable(features) and len(features) != len(source):
            raise ValueError(f"features of {len(features)} images, {len(source)} images")
        self._like = replace(source[0], texts=("",))

    @property
    def is_computed(self) -> bool:
        """Whether the features are there."""
        return self._features is not None

    def compute(self) -> FloatArray:
        """(n, D), computed by the first call."""
        if self._features is None:
            assert self._compute is not None
            self._features = self._compute(None)
        return self._features

    def some(self, indices: Sequence[int]) -> list[Sample]:
        """Samples of some images, whose features are computed for this call alone where they are not there."""
        if self._features is not None or self._compute is None:
            return [self[i] for i in indices]
        return [self._sample(i, row) for i, row in zip(indices, self._compute(indices), strict=True)]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        epoch, index = item if isinstance(item, tuple) else (0, item)
        return self._sample(index, self.compute()[index], epoch)

    def _sample(self, index: int, features: FloatArray, epoch: int = 0) -> Sample:
        return replace(
            self._like,
            image=features[:, None, None],
            rows=self.source.groups[index],
            target=self.source.values[index][None, :, None, None],
            repeated=epoch == REPEATED,
        )


def says_nothing(label: str) -> bool:
    """Whether a label says that there is none, e.g. `No Finding` or `normal`."""
    return "_".join(label.casefold().replace("-", " ").replace("_", " ").split()) in NOTHING_THERE


def has_labels(record: Record) -> bool:
    """Whether somebody looked for labels in a record's image: a label, or `none`."""
    return bool(record.labels) or record.labels_absent


def _label_key(record: Record) -> tuple[frozenset[str], frozenset[str], bool]:
    return frozenset(record.labels), frozenset(_unknown(record)), record.labels_absent


def _unknown(record: Record) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in record.extra.get(UNKNOWN_COLUMN, "").split("|"))))


def _row(record: Record, classes: Sequence[str], config: ClassifyConfig) -> tuple[FloatArray, Fault | None]:
    """(K,) in {0, 1, NaN}, or what is wrong with it."""
    if not has_labels(record):
        return np.full(len(classes), np.nan, dtype=np.float32), None
    labels, unknown = set(record.labels), set(_unknown(record))
    row = np.array([1 if name in labels else np.nan if name in unknown else 0 for name in classes], dtype=np.float32)
    if labels & unknown:
        return row, Fault.conflict(f"{', '.join(sorted(labels & unknown))} is in labels and in {UNKNOWN_COLUMN}")
    positive = [name for name in classes if name in labels]
    negative = labels & set(config.negative_names)
    if negative and positive:
        return row, Fault.conflict(
            f"{', '.join(sorted(negative))} beside {', '.join(positive)}", expected="one or the other"
        )
    if config.labels == "multilabel":
        return row, None
    if len(positive) == 1:
        return (row == 1).astype(np.float32), None
    names = ", ".join(positive or sorted(labels) or ["none"])
    what = f"{len(positive)} classes (labels: {names})" + ("" if labels else "; none says that there is no label")
    return row, Fault.malformed(
        what, expected=f"exactly one of {', '.join(classes)}", remedy="classify.labels: multilabel"
    )
