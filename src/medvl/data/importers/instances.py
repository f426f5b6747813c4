"""Objects of images (COCO, YOLO) -> cases: one mask a category, one box an object, the categories as labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvl.data.importers.cases import Case, boxed
from medvl.data.importers.shapes import Corners, Shape


@dataclass(frozen=True, slots=True)
class Instance:
    """One object. `box` None: a region that is no single object (COCO's iscrowd). `shapes` empty: only its box."""

    label: str
    box: Corners | None
    shapes: tuple[Shape, ...]


def case_of(
    ident: str,
    image: Path,
    split: str,
    instances: Sequence[Instance],
    categories: Sequence[str],
    *,
    with_masks: bool,
    size: tuple[int, int] | None = None,
) -> Case:
    """The case of one image, all of whose objects of the categories are known.

    A category without an object is absent (an empty mask); one of whose objects only the box is known has no mask: the
    box is no outline.
    """
    masks: Mapping[str, Sequence[Shape] | None] = {}
    if with_masks:
        own = {label: [found for found in instances if found.label == label] for label in categories}
        masks = {
            label: [shape for instance in found for shape in instance.shapes]
            if all(instance.shapes for instance in found)
            else None
            for label, found in own.items()
        }
    boxes = [boxed(instance.label, instance.box) for instance in instances if instance.box is not None]
    labels = tuple(label for label in categories if any(instance.label == label for instance in instances))
    none = not instances
    return Case(
        ident, image, split, masks=masks, boxes=boxes, boxes_absent=none, labels=labels, size=size
    )


def counted(instances: Sequence[Instance]) -> Counter[str]:
    """How many objects there are, and how many with a box or a shape only."""
    counts = Counter({"objects": len(instances)})
    counts["objects_without_an_outline"] = sum(not instance.shapes for instance in instances)
    counts["crowds_without_a_box"] = sum(instance.box is None for instance in instances)
    return counts


SPLITS = ("train", "val", "test")


def split_of_name(name: str) -> str | None:
    """train, val or test by the first of these words in a file or folder name (valid and dev are val)."""
    lower = name.lower()
    places = {split: min(_places(lower, words), default=-1) for split, words in _WORDS.items()}
    found = [split for split in SPLITS if places[split] >= 0]
    return min(found, key=lambda split: places[split]) if found else None


_WORDS = {"train": ("train",), "val": ("val", "dev"), "test": ("test",)}


def _places(text: str, words: Sequence[str]) -> list[int]:
    return [text.find(word) for word in words if word in text]
