"""Objects of images (COCO, YOLO, LabelMe) -> cases: a mask a category, a box an object, the categories as labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medvl.data.box_table import Box
from medvl.data.importers.cases import SPLITS, Case
from medvl.data.importers.shapes import Corners, Shape


@dataclass(frozen=True, slots=True)
class Instance:
    """One object. `box` None: a region that is no single object (COCO's iscrowd). `shapes` empty: only its box."""

    label: str
    box: Corners | None
    shapes: tuple[Shape, ...]


@dataclass(slots=True)
class Objects:
    """The objects of one image, and the categories of those that were left out: neither an area nor a box."""

    instances: list[Instance] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def have_outlines(self) -> bool:
        """Whether one of them has more than its box."""
        return any(instance.shapes for instance in self.instances)

    def counts(self) -> Counter[str]:
        """How many objects there are, and how many with a box or a shape only."""
        counts = Counter({"objects": len(self.instances)})
        counts["objects_without_an_outline"] = sum(not instance.shapes for instance in self.instances)
        counts["crowds_without_a_box"] = sum(instance.box is None for instance in self.instances)
        return counts

    def case(
        self,
        ident: str,
        image: Path,
        split: str,
        categories: Sequence[str],
        *,
        with_masks: bool,
        size: tuple[int, int] | None = None,
    ) -> Case:
        """The case of the image, all of whose objects of the categories are known.

        A category without an object is absent (an empty mask); one of whose objects only the box is known has no mask:
        the box is no outline. A category of which all objects were left out is not annotated, for it is not absent:
        nothing is known of its label.
        """
        masks: Mapping[str, Sequence[Shape] | None] = {}
        if with_masks:
            masks = {label: self._mask(label) for label in categories}
        boxes = [Box(instance.label, *instance.box) for instance in self.instances if instance.box is not None]
        present = {instance.label for instance in self.instances}
        labels = tuple(label for label in categories if label in present)
        unknown = tuple(dict.fromkeys(label for label in self.left_out if label not in present))
        absent = not self.instances and not self.left_out
        return Case(
            ident, image, split, masks=masks, boxes=boxes, boxes_absent=absent, labels=labels, labels_unknown=unknown,
            size=size,
        )  # fmt: skip

    def _mask(self, label: str) -> list[Shape] | None:
        instances = [instance for instance in self.instances if instance.label == label]
        if not all(instance.shapes for instance in instances) or (not instances and label in self.left_out):
            return None
        return [shape for instance in instances for shape in instance.shapes]


def split_of_name(name: str) -> str | None:
    """train, val or test by the first of these words in a file or folder name (valid and dev are val).

    A word stands alone or before digits: "contest" and "latest" are none.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    match = re.search(
        r"(?<![a-z])(?:(train)(?:ing|set)?|(val|dev)(?:id|idation|elopment|set)?|(test)(?:ing|set)?)(?![a-z])", words
    )
    return None if match is None else SPLITS[next(i for i, word in enumerate(match.groups()) if word)]
