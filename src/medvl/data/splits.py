"""Patient-grouped splits: no patient and no image stands in two of them; the same seed gives the same split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvl.core.errors import Fault, InputError, nearest, warn
from medvl.core.files import refuse_source
from medvl.data.record import Manifest, Record
from medvl.data.records import load_manifest, moved_rows, write_manifest

NAMES = ("train", "val", "test")
KEPT = ("test", "holdout")


@dataclass(frozen=True, slots=True)
class SplitFile:
    """One manifest that was written."""

    path: Path
    num_records: dict[str, int]  # by split
    num_groups: dict[str, int]
    split_hash: str

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        values = {"manifest": str(self.path), "records": self.num_records, "groups": self.num_groups}
        return {**values, "split_hash": self.split_hash}

    def __str__(self) -> str:
        parts = [
            f"{name} {number} records of {self.num_groups[name]} groups" for name, number in self.num_records.items()
        ]
        return f"{self.path}: {', '.join(parts)}; split hash {self.split_hash[:12]}"


def split_manifest(
    path: str | Path,
    out: str | Path,
    *,
    by: str = "patient",
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    folds: int | None = None,
    keep_test: bool = False,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
) -> list[SplitFile]:
    """Write `path` with a new column split to `out`; with `folds`, one file per fold (`out` + `_fold0` ...).

    Args:
        by: what must not be torn: patient, study or any column. Rows of one image always stay together too.
        fractions: of the images, for train, val and (if three) test; met as nearly as whole groups allow.
        folds: cross-validation instead: in file k the groups of fold k are val, the others train.
        keep_test: rows that are test or holdout already stay so; the others are split.

        columns: names of the table's columns, see `data/columns.py`; what is written has medvl's names.

    Every part gets annotated groups (masks, else boxes, else labels) where there are enough.
    Texts, masks and further columns are kept; paths are rewritten relative to `out`, boxes move into a column.
    """
    manifest, out = load_manifest(path, check_files=False, columns=columns), Path(out)
    groups = _groups(manifest, by)
    kept = _kept(manifest, groups, by) if keep_test else {}
    if not keep_test and any(record.split for record in manifest.records):
        warn(f"{manifest.path}: the splits it has are replaced (--keep-test keeps test and holdout)")
    weights: Counter[str] = Counter()
    for image in {(groups[record.id], record.image) for record in manifest.records}:
        weights[image[0]] += image[0] not in kept
    free = {group: weight for group, weight in weights.items() if weight}
    annotated = _annotated_groups(manifest, groups)
    if folds is not None:
        if folds < 2:
            raise InputError.out_of_range(f"--folds is {folds}", expected="at least 2")
        numbers = assign_groups(free, [1 / folds] * folds, seed, annotated)
        _check_filled(numbers, [str(fold) for fold in range(folds)], manifest, by)
        targets = [out.with_name(f"{out.stem}_fold{fold}{out.suffix}") for fold in range(folds)]
        for target in targets:
            refuse_source(manifest.path, target)
        files = []
        for fold, target in enumerate(targets):
            splits = {group: "val" if number == fold else "train" for group, number in numbers.items()} | kept
            files.append(_write(manifest, target, groups, splits, {group: str(n) for group, n in numbers.items()}))
        return files
    if len(fractions) not in (2, 3) or any(part <= 0 for part in fractions) or abs(sum(fractions) - 1) > 1e-6:
        given = ",".join(f"{part:g}" for part in fractions)
        raise InputError.out_of_range(f"--fractions is {given}", expected="train,val[,test], above 0, with the sum 1")
    if keep_test and len(fractions) == 3:
        raise InputError.conflict("--keep-test with three fractions", remedy="give two, e.g. --fractions 0.85,0.15")
    refuse_source(manifest.path, out)
    names = NAMES[: len(fractions)]
    numbers = assign_groups(free, fractions, seed, annotated)
    _check_filled(numbers, names, manifest, by)
    without = [name for i, name in enumerate(names) if not any(numbers.get(group) == i for group in annotated)]
    if annotated and without:
        warn(f"{manifest.path}: nothing in {', '.join(without)} is annotated: only {len(annotated)} groups by {by} are")
    return [_write(manifest, out, groups, {group: names[n] for group, n in numbers.items()} | kept, {})]


def assign_groups(
    weights: Mapping[str, int], fractions: Sequence[float], seed: int, annotated: Collection[str] = ()
) -> dict[str, int]:
    """Groups in an order drawn by seed, each to the part that is farthest below its share.

    A pure function of the groups' names, weights and the seed, on any machine and in any order of the rows.

    Args:
        annotated: groups that have masks (or what else is learned). They are shared out first, by the same fractions,
            and every part gets one where there are enough.
    """
    order = sorted(weights, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    order.sort(key=lambda group: -weights[group])  # the largest first, so that the last ones even it out
    first = [group for group in order if group in annotated]
    numbers = _by_share(first, weights, fractions, {})
    for part in range(len(fractions)):
        have = Counter(numbers.values())
        donor = max(have, key=lambda number: (have[number], -number), default=part)
        if part not in have and have[donor] > 1:
            numbers[next(group for group in reversed(first) if numbers[group] == donor)] = part
    return _by_share([group for group in order if group not in annotated], weights, fractions, numbers)


def _by_share(
    groups: Sequence[str], weights: Mapping[str, int], fractions: Sequence[float], numbers: Mapping[str, int]
) -> dict[str, int]:
    """`numbers` and a part for each of `groups`: the one that is farthest below its share of them all."""
    numbers = dict(numbers)
    filled = [sum(weights[group] for group, number in numbers.items() if number == i) for i in range(len(fractions))]
    total = sum(filled) + sum(weights[group] for group in groups)
    for group in groups:
        gaps = [fraction * total - have for fraction, have in zip(fractions, filled, strict=True)]
        numbers[group] = gaps.index(max(gaps))
        filled[numbers[group]] += weights[group]
    return numbers


def _annotated_groups(manifest: Manifest, groups: Mapping[str, str]) -> set[str]:
    """The groups with a mask; where no record has one, those with boxes; else those with labels."""
    kinds: tuple[Callable[[Record], bool], ...] = (
        lambda record: any(mask is not None for mask in record.masks.values()),
        lambda record: bool(record.boxes) or record.boxes_absent,
        lambda record: bool(record.labels) or record.labels_absent,
    )
    for is_annotated in kinds:
        names = {groups[record.id] for record in manifest.records if is_annotated(record)}
        if names:
            return names
    return set()


def _groups(manifest: Manifest, by: str) -> dict[str, str]:
    """Record id -> group. Values of `by` that share an image are one group."""
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    faults = []
    keys = {}
    for record in manifest.records:
        value = _value(manifest, record, by)
        if not value:
            faults.append(Fault.missing(f"no {by}", manifest.path, record.line, record.id))
        keys[record.id] = f"{by}:{value}"
        parent[find(keys[record.id])] = find(f"image:{record.image}")
    if faults:
        raise InputError(faults)
    names: dict[str, str] = {}
    for key in sorted(set(keys.values())):
        names.setdefault(find(key), key)  # a group is called after its first value, wherever the folder is
    merged = len(set(keys.values())) - len(names)
    if merged:
        warn(f"{manifest.path}: {merged} values of {by} share an image with another one and stay together")
    return {ident: names[find(key)] for ident, key in keys.items()}


def _value(manifest: Manifest, record: Record, by: str) -> str:
    if by in ("patient", "id"):
        return record.patient if by == "patient" else record.id
    if by in ("study", "view", "licence"):
        return getattr(record, by) or ""
    if by not in record.extra:
        choices = ["patient", "study", "id", *record.extra]
        like = nearest(by, choices)
        remedy = f"did you mean {like}?" if like else None
        raise InputError.missing_column(
            f"no column {by}", file=manifest.path, expected=", ".join(choices), remedy=remedy
        )
    return record.extra[by]


def _kept(manifest: Manifest, groups: Mapping[str, str], by: str) -> dict[str, str]:
    splits_of: dict[str, set[str]] = {}
    for record in manifest.records:
        splits_of.setdefault(groups[record.id], set()).add(record.split if record.split in KEPT else "")
    torn = sorted(group for group, splits in splits_of.items() if len(splits) > 1)
    if torn:
        raise InputError.leak(
            f"{len(torn)} groups by {by} are in test or holdout and elsewhere, e.g. {torn[0]}",
            file=manifest.path,
            remedy="split without --keep-test, or see medvl data audit",
        )
    return {group: split for group, splits in splits_of.items() for split in splits if split}


def _check_filled(numbers: Mapping[str, int], names: Sequence[str], manifest: Manifest, by: str) -> None:
    empty = [name for i, name in enumerate(names) if i not in numbers.values()]
    if empty:
        raise InputError.empty(
            f"{len(numbers)} groups by {by} are too few: nothing is left for {', '.join(empty)}", file=manifest.path
        )


def _write(
    manifest: Manifest, out: Path, groups: Mapping[str, str], splits: Mapping[str, str], folds: Mapping[str, str]
) -> SplitFile:
    columns, rows = moved_rows(manifest, out)
    columns += [name for name in ("split", *(["fold"] if folds else [])) if name not in columns]
    for row, record in zip(rows, manifest.records, strict=True):
        row["split"] = splits[groups[record.id]]
        if folds:
            row["fold"] = folds.get(groups[record.id], "")
    write_manifest(out, rows, columns)
    records = Counter(row["split"] for row in rows)
    counted = Counter(splits[group] for group in set(groups.values()))
    return SplitFile(out, dict(records), dict(counted), load_manifest(out, check_files=False).split_hash())
