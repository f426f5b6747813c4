"""What a table holds, as `medvl fit` asks it: the facts by which a task and its settings are chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from medvl.core.errors import InputError
from medvl.data.audit.reports import looks_like_reports
from medvl.data.columns import image_stem
from medvl.data.images import image_size, num_slices, read_image
from medvl.data.record import Manifest, Record
from medvl.data.reports import names_side

NUM_LOOKED_AT = 32  # images whose size and colours are looked at
COLOURED = 0.02  # difference of two channels from which an image has colours


@dataclass(frozen=True, slots=True)
class TableFacts:
    """Counts of the training records of a table, in images where nothing else is stated."""

    path: Path
    num_images: int
    num_annotated: int = 0  # with a mask in some row
    classes: tuple[str, ...] = ()  # mask classes that are annotated
    rows_per_image: int = 1  # the median
    num_rows: int = 0
    num_texts: int = 0  # rows with a text
    num_distinct_texts: int = 0
    are_reports: bool = False  # the texts look like radiology reports
    name_sides: bool = False
    num_boxed: int = 0
    num_labelled: int = 0
    one_label_each: bool = False  # every labelled image has exactly one, of at least two
    side_px: int = 128  # the median of the longest sides
    in_channels: int = 1

    @property
    def have_texts(self) -> bool:
        """Whether most rows have a text, and not all the same one."""
        return 2 * self.num_texts >= max(1, self.num_rows) and self.num_distinct_texts > 1

    @property
    def few_masks(self) -> bool:
        """Whether most images have no mask."""
        return 2 * self.num_annotated < self.num_images


def table_facts(manifest: Manifest) -> TableFacts:
    """The facts of the training records; of all records where the table has no splits."""
    rows = [row for row in manifest.records if row.split == "train"] or list(manifest.records)
    images = list(dict.fromkeys(row.image for row in rows))
    annotated = [row for row in rows if any(mask is not None for mask in row.masks.values())]
    labels = {row.image: row.labels for row in rows if row.labels or row.labels_absent}
    texts = [row.text.strip() for row in rows if row.text.strip()]
    looked_at = images[:: max(1, len(images) // NUM_LOOKED_AT)]
    _refuse_paths_as_labels(manifest, rows)
    return TableFacts(
        path=manifest.path,
        num_images=len(images),
        num_annotated=len({row.image for row in annotated}),
        classes=tuple(name for name in manifest.classes if any(row.masks[name] is not None for row in annotated)),
        rows_per_image=int(median(Counter(row.image for row in rows).values())),
        num_rows=len(rows),
        num_texts=len(texts),
        num_distinct_texts=len(set(texts)),
        are_reports=looks_like_reports(texts),
        name_sides=any(names_side(text) for text in set(texts)),
        num_boxed=len({row.image for row in rows if row.boxes}),
        num_labelled=len(labels),
        one_label_each=len(set(labels.values())) > 1 and all(len(names) == 1 for names in labels.values()),
        side_px=int(median(max(image_size(path)) for path in looked_at)),
        in_channels=3 if any(_has_colours(path) for path in looked_at[:8]) else 1,
    )


def _has_colours(path: Path) -> bool:
    if num_slices(path) > 1:
        return False
    pixels = read_image(path).pixels
    return pixels.ndim == 3 and float(abs(pixels[..., :1] - pixels[..., 1:]).max()) > COLOURED


def _refuse_paths_as_labels(manifest: Manifest, rows: Sequence[Record]) -> None:
    """InputError where a column `label` holds masks, as some programs write them."""
    names = [name for row in rows[:50] for name in row.labels]
    if names and all(image_stem(Path(name)) != Path(name).name for name in names):
        raise InputError.mismatch(
            f"the labels are files, e.g. {names[0]}",
            file=manifest.path,
            expected="names of classes",
            remedy="data.columns={mask: label}, if they are masks",
        )
