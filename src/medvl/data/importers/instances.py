"""Objects of images (COCO, YOLO) -> cases: one mask a category, one box an object, the categories as labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medvl.data.importers.cases import Case, boxed
from medvl.data.importers.shapes import Corners, Shape


@dataclass(frozen=True, slots=True)
class Instance:
    """One object. `box` None: a region that is no single object (COCO's iscrowd). `shapes` empty: only its box."""

    label: str
    box: Corners | None
    shapes: tuple[Shape, ...]


@dataclass(slots=True)
class Objects:
    """The objects of one image, and the categories of those that were left out because they have no area."""

    instances: list[Instance] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def case_of(
    ident: str,
    image: Path,
    split: str,
    instances: Sequence[Instance],
    categories: Sequence[str],
    *,
    with_masks: bool,
    size: tuple[int, int] | None = None,
    left_out: Collection[str] = (),
) -> Case:
    """The case of one image, all of whose objects of the categories are known.

    Args:
        left_out: categories of objects that have neither an area nor a box; a category of such objects alone is not
            annotated, for it is not absent: nothing is known of its label.

    A category without an object is absent (an empty mask); one of whose objects only the box is known has no mask: the
    box is no outline.
    """
    masks: Mapping[str, Sequence[Shape] | None] = {}
    if with_masks:
        own = {label: [found for found in instances if found.label == label] for label in categories}
        masks = {
            label: [shape for instance in found for shape in instance.shapes]
            if all(instance.shapes for instance in found) and (found or label not in left_out)
            else None
            for label, found in own.items()
        }
    boxes = [boxed(instance.label, instance.box) for instance in instances if instance.box is not None]
    labels = tuple(label for label in categories if any(instance.label == label for instance in instances))
    unknown = tuple(dict.fromkeys(label for label in left_out if label not in labels))
    return Case(
        ident,
        image,
        split,
        masks=masks,
        boxes=boxes,
        boxes_absent=not instances and not left_out,
        labels=labels,
        labels_unknown=unknown,
        size=size,
    )


def counted(instances: Sequence[Instance]) -> Counter[str]:
    """How many objects there are, and how many with a box or a shape only."""
    counts = Counter({"objects": len(instances)})
    counts["objects_without_an_outline"] = sum(not instance.shapes for instance in instances)
    counts["crowds_without_a_box"] = sum(instance.box is None for instance in instances)
    return counts


SPLITS = ("train", "val", "test")


def split_of_name(name: str) -> str | None:
    """train, val or test by the first of these words in a file or folder name (valid and dev are val).

    A word stands alone or before digits: "contest" and "latest" are none.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    match = re.search(
        r"(?<![a-z])(?:(train)(?:ing|set)?|(val|dev)(?:id|idation|elopment|set)?|(test)(?:ing|set)?)(?![a-z])", words
    )
    return None if match is None else SPLITS[next(i for i, word in enumerate(match.groups()) if word)]
