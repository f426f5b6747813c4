"""Where predictions come from: a folder of masks made by any program, or a medvl model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import Fault, InputError
from medvl.data.file_checks import Grid
from medvl.data.hashes import Stage
from medvl.data.images import IMAGE_SUFFIXES, read_image
from medvl.data.mask_colours import LabelValue
from medvl.data.masks import read_mask
from medvl.data.record import Record
from medvl.models.masks import class_masks

if TYPE_CHECKING:
    from medvl.inference.predictor import Predictor, Segmentation

BoolArray = NDArray[np.bool_]
ProbArray = NDArray[np.float32]
MULTICLASS = "multiclass"  # of objective.mode


class MaskSource(Protocol):
    """Predicted masks for records of one image, on that image's native grid."""

    def check(self, records: Sequence[Record], classes: Sequence[str]) -> None:
        """Raise one InputError with every fault of these records, before anything is scored."""

    def masks(self, records: Sequence[Record], texts: Sequence[str]) -> list[dict[str, BoolArray]]:
        """Per record {class: (H, W) bool}. All records share one image; `texts[i]` is the text of record i."""

    def spacing_mm(self, record: Record) -> tuple[float, ...] | None:
        """(row, column) size of a pixel of the record's image, of a volume (slice, row, column); None where unknown."""

    def describe(self) -> dict[str, Any]:
        """What summary.json says of the source: model, config, seed and what else identifies it."""


@runtime_checkable
class ProbSource(Protocol):
    """A MaskSource that also gives probabilities, so that a threshold can be chosen."""

    def probs(self, records: Sequence[Record], texts: Sequence[str]) -> list[dict[str, ProbArray]]:
        """Per record {class: (H, W) float32 in [0, 1]}."""


def takes_threshold(source: MaskSource) -> bool:
    """Whether a threshold decides its masks: it gives probabilities, and they are not of exclusive classes."""
    return isinstance(source, ProbSource) and not getattr(source, "is_exclusive", False)


def predicted_masks(
    source: MaskSource, records: Sequence[Record], texts: Sequence[str], threshold: float | None
) -> list[dict[str, BoolArray]]:
    """Masks of a source: probabilities above `threshold` where that decides, else the masks as they are."""
    if threshold is not None and isinstance(source, ProbSource) and takes_threshold(source):
        return [{name: probs > threshold for name, probs in row.items()} for row in source.probs(records, texts)]
    return source.masks(records, texts)


class FolderSource:
    """Masks as files. For a record and class the first of these that exists is taken, with any of `IMAGE_SUFFIXES`:

    one class: `<id>__<phrase-slug>`, `<id>`, `<id>__<class>`; several: `<id>__<phrase-slug>__<class>`, `<id>__<class>`.
    The stem of the image's file name may stand for the id (as `medvl predict` writes it); without a prompt or class
    after it only where that image has one record. What a file means is decided as for true
    masks, in `data/mask_meaning.py`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        window: tuple[float, float] | None = None,
        slice_index: int | None = None,
    ) -> None:
        if not folder.is_dir():
            raise InputError.missing_file(
                "no such folder", file=folder, expected="a run or model folder, or a folder of masks"
            )
        self.folder, self.window, self.slice_index = folder, window, slice_index
        self._files: dict[tuple[str, str], Path] = {}

    def check(self, records: Sequence[Record], classes: Sequence[str]) -> None:
        """Find every file and compare its grid with the image's."""
        rows_of: dict[Path, int] = {}
        for record in records:
            rows_of[record.image] = rows_of.get(record.image, 0) + 1
        faults: list[Fault] = []
        for record in records:
            for name in classes:
                if record.masks.get(name) is None:
                    continue  # not annotated, hence not scored
                stems = self._stems(record, name, len(classes), rows_of[record.image] == 1)
                names = (self.folder / (stem + suffix) for stem in stems for suffix in IMAGE_SUFFIXES)
                file = next((path for path in names if path.is_file()), None)
                if file is None:
                    faults.append(
                        Fault.missing_file(
                            f"no predicted mask{'' if len(classes) == 1 else f' of class {name}'}",
                            file=self.folder,
                            line=record.line,
                            record=record.id,
                            expected=" or ".join(f"{stem}.png" for stem in stems),
                        )
                    )
                    continue
                self._files[record.id, name] = file
                difference = Grid.of(file).difference(Grid.of(record.image))
                if difference:
                    faults.append(
                        Fault.mismatch(
                            f"the predicted mask {difference[0]}",
                            file=file,
                            record=record.id,
                            expected=f"{difference[1]}, as the image {record.image.name}",
                            remedy="write masks on the native grid of the image",
                        )
                    )
        if faults:
            raise InputError(faults)

    def masks(self, records: Sequence[Record], texts: Sequence[str]) -> list[dict[str, BoolArray]]:
        """The files' masks; `texts` play no part, as the files are already made."""
        return [
            {name: self._read(path) for name in record.masks if (path := self._files.get((record.id, name)))}
            for record in records
        ]

    def set_slice(self, index: int | None) -> None:
        """Read this slice of image and mask files from now on."""
        self.slice_index = index

    def spacing_mm(self, record: Record) -> tuple[float, float] | None:
        """As the image file says."""
        return read_image(record.image, window=self.window, slice_index=self.slice_index).spacing_mm

    def describe(self) -> dict[str, Any]:
        """A folder says no more than its name."""
        return {"model": str(self.folder), "kind": "folder of masks", "seed": None, "config": None}

    def _stems(self, record: Record, name: str, num_classes: int, sole: bool) -> list[str]:
        from medvl.inference.writers import slug

        stem = record.image.name.removesuffix(".gz").rsplit(".", 1)[0]
        phrase = f"__{slug(record.text)}" if record.text.strip() else ""
        stems: list[str] = []
        for start, may_stand_alone in ((record.id, True), (stem, sole)):
            if num_classes > 1:
                named = [f"{start}{phrase}__{name}"] if phrase else []
                named += [f"{start}__{name}"] if may_stand_alone else []
            else:
                named = [f"{start}{phrase}"] if phrase else []
                named += [start, f"{start}__{name}"] if may_stand_alone else []
            stems += [item for item in named if item not in stems]
        return stems

    def _read(self, path: Path) -> BoolArray:
        return read_mask(path, slice_index=self.slice_index)


class PredictorSource:
    """A medvl model. The image is encoded once, each distinct text is used once.

    A model of fixed classes on rows whose mask is a selection of label values (`mask_values`) answers with the union of
    the classes whose values are selected; the union's probability is the sum of exclusive classes, else the maximum.
    """

    def __init__(
        self,
        predictor: Predictor,
        model: str,
        extra: Mapping[str, Any] | None = None,
        stages: Sequence[Stage] | None = None,
    ) -> None:
        """`stages`: the images that the model was trained on; None = it does not say."""
        self.predictor, self.model, self._extra, self.stages = predictor, model, dict(extra or {}), stages
        self._image: Path | None = None
        self._answers: dict[tuple[str, tuple[str, ...]], Segmentation] = {}  # of a text and a context

    @property
    def uses_text(self) -> bool:
        """Whether the model takes a prompt at all."""
        return self.predictor.uses_text

    @property
    def is_exclusive(self) -> bool:
        """Whether each pixel has one class (or none), the most probable: no threshold decides."""
        return self.predictor.config.objective.mode == MULTICLASS

    def check(self, records: Sequence[Record], classes: Sequence[str]) -> None:
        """Classes of manifest and model must fit each other."""
        if self._classes_fit(classes):
            return
        values = self.predictor.class_values
        if len(classes) != 1 or values is None:
            raise InputError.mismatch(
                f"the manifest's classes are {', '.join(classes)}",
                expected=f"those of the model: {', '.join(self.predictor.classes)}",
            )
        faults = []
        for record in records:
            reference = record.masks.get(classes[0])
            if reference is not None:
                problem = _selection_fault(reference.values, reference.path is None, values)
                if problem:
                    faults.append(Fault.mismatch(problem, line=record.line, record=record.id))
        if faults:
            raise InputError(faults)

    def probs(self, records: Sequence[Record], texts: Sequence[str]) -> list[dict[str, ProbArray]]:
        """Probabilities on the native grid; the predictions of the current image are kept."""
        answers = self._ask(records, texts)
        return [self._by_class(record, answer) for record, answer in zip(records, answers, strict=True)]

    def _ask(self, records: Sequence[Record], texts: Sequence[str]) -> list[Segmentation]:
        self._open(records[0])
        names = self.predictor.context_columns
        keys = [
            (text if self.predictor.uses_text else "", tuple(record.context.get(name, "") for name in names))
            for record, text in zip(records, texts, strict=True)
        ]
        missing = [key for key in dict.fromkeys(keys) if key not in self._answers]
        if missing:
            if len(self._answers) + len(missing) > 64:
                self._answers.clear()  # bounds memory on images with very many prompts
                missing = list(dict.fromkeys(keys))
            answers = self.predictor.segment_many(
                [text for text, _ in missing], contexts=[dict(zip(names, cells, strict=True)) for _, cells in missing]
            )
            self._answers |= dict(zip(missing, answers, strict=True))
        return [self._answers[key] for key in keys]

    def masks(self, records: Sequence[Record], texts: Sequence[str]) -> list[dict[str, BoolArray]]:
        """Probabilities above 0.5; of exclusive classes the most probable."""
        if self.is_exclusive:
            pairs = zip(records, self._ask(records, texts), strict=True)
            return [self._exclusive(record, answer.probs) for record, answer in pairs]
        return [{name: probs > 0.5 for name, probs in row.items()} for row in self.probs(records, texts)]

    def spacing_mm(self, record: Record) -> tuple[float, float] | None:
        """As the image file says."""
        if record.image != self._image or not self._answers:
            self.probs([record], [record.text])
        return next(iter(self._answers.values())).spacing_mm

    def describe(self) -> dict[str, Any]:
        """Name, configuration and training seed of the model."""
        from medvl.config import config_dict

        config = config_dict(self.predictor.config)
        return {"model": self.model, "kind": "model", "seed": config["train"]["seed"], "config": config, **self._extra}

    def set_slice(self, index: int | None) -> None:
        """Ask about this slice of images from now on."""
        config = self.predictor.config
        self.predictor.config = replace(config, data=replace(config.data, slice_index=index))
        self._image, self._answers = None, {}

    def _open(self, record: Record) -> None:
        if record.image != self._image:
            self.predictor.set_image(record.image)
            self._image, self._answers = record.image, {}

    def _classes_fit(self, classes: Sequence[str]) -> bool:
        known = self.predictor.classes
        return set(classes) <= set(known) or (len(classes) == 1 and len(known) == 1)

    def _by_class(self, record: Record, answer: Segmentation) -> dict[str, ProbArray]:
        known = self.predictor.classes
        wanted = tuple(record.masks)
        if len(known) == 1:
            return {name: answer.probs for name in wanted}
        if self._classes_fit(wanted):
            return {name: answer.probs[known.index(name)] for name in wanted}
        if record.masks[wanted[0]] is None:
            return {}
        chosen = self._selected(record)
        parts = answer.probs[chosen]  # (k, H, W)
        if len(chosen) == 0:
            return {wanted[0]: np.zeros(answer.probs.shape[1:], dtype=np.float32)}
        if self.is_exclusive:
            return {wanted[0]: np.minimum(parts.sum(axis=0), 1.0, dtype=np.float32)}
        return {wanted[0]: parts.max(axis=0)}

    def _exclusive(self, record: Record, probs: ProbArray) -> dict[str, BoolArray]:
        """As `_by_class`: where the most probable class is the wanted one, or one of those selected."""
        known, wanted = self.predictor.classes, tuple(record.masks)
        masks: BoolArray = class_masks(probs.reshape(len(known), *probs.shape[-2:]), MULTICLASS)  # (K, H, W)
        if len(known) == 1:
            return {name: masks[0] for name in wanted}
        if self._classes_fit(wanted):
            return {name: masks[known.index(name)] for name in wanted}
        if record.masks[wanted[0]] is None:
            return {}
        union: BoolArray = np.logical_or.reduce(masks[self._selected(record)])  # (H, W)
        return {wanted[0]: union}

    def _selected(self, record: Record) -> list[int]:
        """The model's classes whose label values a record's mask selects."""
        reference, values = next(iter(record.masks.values())), self.predictor.class_values or {}
        return [
            k
            for k, name in enumerate(self.predictor.classes)
            if reference is None or reference.values is None or set(values[name]) <= set(reference.values)
        ]


def _selection_fault(
    selected: tuple[LabelValue, ...] | None, absent: bool, values: Mapping[str, Sequence[LabelValue]]
) -> str | None:
    """Why the classes of a model cannot give a selection of label values, or None."""
    if selected is None:
        return "absent, and no mask_values say what was looked for" if absent else None
    known = {value for group in values.values() for value in group}
    unknown = sorted(set(selected) - known, key=str)
    if unknown:
        return f"mask_values {unknown} belong to no class of the model"
    for name, group in values.items():
        cut = set(group) & set(selected)
        if cut and cut != set(group):
            return f"mask_values select a part of the model's class {name} ({'|'.join(map(str, group))})"
    return None
