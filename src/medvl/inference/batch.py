"""Many images -> files: what `medvl predict` does with a model of any task.

Each task writes files and a table of its own (`Task.answerer`). All inputs are checked before a model is loaded or a
file is written. An image whose damage shows only while it is read is left out: the table holds what was done, and
`UnfinishedError` names the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medvl.config import Config, load_config
from medvl.core.errors import Fault, InputError, UnfinishedError
from medvl.core.progress import track
from medvl.core.task import Answerer, Question, Row, find_task
from medvl.data.context import Context
from medvl.data.image import Image
from medvl.data.images import SliceChoice
from medvl.data.records import write_manifest
from medvl.inference.inputs import InputImage, list_images
from medvl.inference.model_folder import find_model


def predict_files(
    model: str | Path,
    sources: Sequence[str | Path],
    texts: Sequence[str],
    out: Path,
    *,
    threshold: float | None = None,
    device: str = "cpu",
    context: Context | None = None,
    choice: SliceChoice = None,
    text_column: str | None = None,
    columns: Mapping[str, str] | None = None,
    task: str | None = None,
    classes: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Ask a model about every image of `sources` (see `list_images`); returns the rows of the table that is written.

    Args:
        texts: what to segment, for every image; without any, each row of a manifest has its own text.
        threshold: None = 0.5 for masks and classes, `detect.score_threshold` for boxes.
        context: the clinical variables beside the texts, {"age": "63"}, of all images; a manifest has its own columns.
        choice: of volumes and files of several frames, `--slice`: a number, or "all" for one mask volume each.
        text_column, columns: of a manifest, as in `data`; None = those that the model was trained with.
        task: of which the model must be; None = any.
        classes: of zero-shot classification, for a pre-trained model.
        options: of one task alone, by name; see its answerer.

    Raises:
        InputError: an input that cannot be read (before anything is written), a model of another task, a text where
            the model takes none, no text where it needs one.
        UnfinishedError: some images could not be read; the others are done.
    """
    config = load_config(find_model(model) / "config.yaml")
    if task is not None and config.task != task:
        raise InputError.unsupported(
            f"a model of task: {config.task}", file=model, expected=f"a run or model of task: {task}"
        )
    column = text_column or config.data.text_column
    images = list_images(
        sources,
        choice=choice,
        default_slice=config.data.slice_index,
        text_column=column,
        columns=config.data.columns if columns is None else columns,
        out=out,
    )
    question = Question(texts, threshold, device, context or {}, classes, options or {})
    answerer = find_task(config.task).answerer(model, images, out, question)
    return _answer_all(answerer, images, out)


class RowFiles:
    """Writes predictions.csv: a row per image, of all slices of a volume one each.

    Args:
        columns: behind id, image and slice.
        row: an image -> the cells of these columns.
    """

    table = "predictions.csv"

    def __init__(self, columns: Sequence[str], row: Callable[[Image], Row], config: Config, out: Path) -> None:
        self.columns = ("id", "image", "slice", *columns)
        self._row, self._data, self._out = row, config.data, out

    def answer(self, image: InputImage) -> list[Row]:
        """The rows of one image. InputError where it cannot be read."""
        from medvl.data.dataset import load_image  # what lists the images needs no torch

        self._out.mkdir(parents=True, exist_ok=True)
        rows = []
        for index in image.slices:
            row: Row = {"id": image.name, "image": str(image.path), "slice": "" if index is None else index}
            rows.append(row | self._row(load_image(image.path, replace(self._data, slice_index=index))))
        return rows


def _answer_all(answerer: Answerer, images: Sequence[InputImage], out: Path) -> list[Row]:
    """All images in order; the table is written whatever ends the loop, once anything is done."""

    def write(rows: Sequence[Row]) -> None:
        cells = [{key: str(value) for key, value in row.items()} for row in rows]
        write_manifest(out / answerer.table, cells, list(answerer.columns))

    return answer_each(images, answerer.answer, "predict", out / answerer.table, write)


def answer_each(
    images: Sequence[InputImage],
    answer: Callable[[InputImage], list[Row]],
    label: str,
    place: Path,
    write: Callable[[Sequence[Row]], None] = lambda rows: None,
) -> list[Row]:
    """The rows of all images in order; one that cannot be read does not stop the others.

    Args:
        label: of the progress.
        place: where the predictions are, for the error.
        write: is called with the rows whatever ends the loop, once anything is done.

    Raises:
        InputError: no image could be read.
        UnfinishedError: some could not.
    """
    rows: list[Row] = []
    faults: list[Fault] = []
    num_done = 0
    try:
        for image in track(images, label, len(images)):
            try:
                rows += answer(image)
                num_done += 1
            except InputError as error:
                faults += [replace(fault, file=fault.file or image.path) for fault in error.faults]
    finally:
        if num_done:
            write(rows)
    if faults:
        if not num_done:
            raise InputError(faults)
        done = Fault.unfinished(f"{num_done} of {len(images)} images are done", file=place)
        raise UnfinishedError([*faults, done])
    return rows
