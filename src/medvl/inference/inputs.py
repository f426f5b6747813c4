"""What a verb is given to look at: images, folders, globs and manifests -> one list of images with names of their own.

`medvl predict`, `detect`, `ground` and `classify` read their inputs here, and all faults are reported together before
a model is loaded.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medvl.assets import SHIPPED
from medvl.config import load_config
from medvl.core.errors import Fault, InputError, warn
from medvl.core.progress import track
from medvl.data.columns import image_stem, read_columns, short_id
from medvl.data.images import IMAGE_SUFFIXES, SliceChoice, image_size, slices_of
from medvl.data.packed import SUFFIX as PACK_SUFFIX
from medvl.data.record import Manifest, Record
from medvl.data.records import load_manifest
from medvl.data.tables import SUFFIXES as TABLE_SUFFIXES
from medvl.inference.model_folder import find_model

_APPLE_DOUBLE = "._"  # macOS writes such a file beside each one on a foreign disk


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image to look at.

    `name`: of the files to be written, unique in the list. `slices`: which slices or frames are asked for; (None,) for
    an image of one. `record`: its row where a manifest names it.
    """

    name: str
    path: Path
    slices: tuple[int | None, ...] = (None,)
    record: Record | None = None

    @property
    def is_volume(self) -> bool:
        """Whether all slices are asked for, so that the masks are one volume."""
        return len(self.slices) > 1


def list_images(
    sources: Sequence[str | Path],
    *,
    choice: SliceChoice = None,
    default_slice: int | None = None,
    text_column: str = "text",
    columns: Mapping[str, str] | None = None,
    out: Path | None = None,
) -> list[InputImage]:
    """The images of files, folders, globs and manifests, in that order, each once.

    Folders are read with all folders below them; files that are no images are passed over and counted, and so are the
    `._` files of macOS. Images of the same name get the folders that distinguish them: study1-1-1 and study2-1-1.

    Args:
        choice: `--slice`, see `medvl.data.images`.
        text_column: of manifests; where a manifest does not have it, `text`.
        columns: of manifests with other names, as `data.columns`.
        out: is not searched, where it lies in a folder that is given.

    Raises:
        InputError: all faults of all inputs; nothing to look at.
    """
    images: list[InputImage] = []
    faults: list[Fault] = []
    for source in sources:
        try:
            images += _images_of(source, text_column, columns or {}, out, faults)
        except InputError as error:
            faults += error.faults
    images = _without_repeats(images)
    checked = []
    for image in track(images, "check images", len(images)):
        try:
            image_size(image.path)
            checked.append(replace(image, slices=slices_of(image.path, choice, default_slice)))
        except InputError as error:
            faults += [replace(one, file=one.file or image.path) for one in error.faults]
    if faults:
        raise InputError(list(dict.fromkeys(faults)))
    if not checked:
        raise InputError.empty("no image to look at", expected="images, a folder, a glob or a manifest")
    names = _names(checked)
    return [replace(image, name=name) for image, name in zip(checked, names, strict=True)]


def is_manifest(source: str | Path) -> bool:
    """Whether a source is a table of images or a pack of one: by its suffix, or one that ships with medvl."""
    return Path(source).suffix.lower() in (*TABLE_SUFFIXES, PACK_SUFFIX) or str(source).startswith(SHIPPED)


def as_manifest(images: Sequence[InputImage], path: str | Path) -> Manifest:
    """Images as records without texts, masks or labels, but for those that a manifest gives; `path` names them."""
    records = [
        image.record or Record(image.name, image.path, "", {}, (), (), image.name, None, None, None, None, {}, line)
        for line, image in enumerate(images, 1)
    ]
    return Manifest(Path(path), tuple(records), (), ())


def default_slice(model: str | Path) -> int | None:
    """`data.slice_index` that a model was trained with."""
    return load_config(find_model(model) / "config.yaml").data.slice_index


def _images_of(
    source: str | Path, text_column: str, columns: Mapping[str, str], out: Path | None, faults: list[Fault]
) -> list[InputImage]:
    path = Path(source)
    if is_manifest(source) and not path.is_dir():
        return _of_manifest(source, text_column, columns)
    if path.is_dir():
        return _kept(str(path), _walk(path, out), faults, "with all folders below")
    if not path.exists() and any(mark in str(source) for mark in "*?["):
        files: list[Path] = []
        for name in sorted(glob.glob(str(source), recursive=True)):
            files += _walk(Path(name), out) if Path(name).is_dir() else [Path(name)]
        if not files:
            raise InputError.missing_file(
                "no file matches", file=str(source), expected="a glob of images", remedy="quote it as is"
            )
        return _kept(str(source), files, faults, "as matched")
    if path.name.startswith(_APPLE_DOUBLE):
        warn("passed over: a ._ file of macOS, no image", place=path)
        return []
    return [InputImage(image_stem(path), path)]


def _of_manifest(source: str | Path, text_column: str, columns: Mapping[str, str]) -> list[InputImage]:
    """The rows of a table; one without a column id is named by its images."""
    header = read_columns(source, columns, make_ids=True).columns
    column = text_column if text_column in header else "text"
    records = load_manifest(source, text_column=column, classes=[], columns=columns, make_ids=True).records
    return [InputImage(record.id, record.image, record=record) for record in records]


def _walk(folder: Path, out: Path | None) -> list[Path]:
    """All files below a folder, by name; hidden ones and those below `out` are left out."""
    files = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (out is None or (Path(place) / name).resolve() != out.resolve())
        )
        files += [Path(place) / name for name in sorted(names) if not name.startswith(".") or _is_double(name)]
    return files


def _is_double(name: str) -> bool:
    return name.startswith(_APPLE_DOUBLE)


def _kept(source: str, files: Sequence[Path], faults: list[Fault], how: str) -> list[InputImage]:
    """The images among files; how many were passed over is printed. A damaged image is a fault."""
    images, passed = [], 0
    for path in files:
        if _is_double(path.name):
            passed += 1
            continue
        try:
            image_size(path)
        except InputError as error:
            if not path.name.lower().endswith(IMAGE_SUFFIXES) or _is_without_pixels(path):
                passed += 1
                continue
            faults += error.faults
            continue
        images.append(InputImage(image_stem(path), path))
    others = f"; {passed} files that are no images are passed over" if passed else ""
    print(f"{source}: {len(images)} images, {how}{others}", file=sys.stderr)
    if not images and not faults:
        raise InputError.empty("no image in it", file=source, expected="images")
    return images


def _is_without_pixels(path: Path) -> bool:
    """Whether a file is a DICOM object other than an image: a report, a directory, a set of structures."""
    from medvl.data.dicom import is_dicom

    if not is_dicom(path):
        return False
    import pydicom

    try:
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        return "Rows" not in header and kind is not None and "Image" not in pydicom.uid.UID(kind).name
    except Exception:  # damaged: the reader reports how
        return False


def _without_repeats(images: Sequence[InputImage]) -> list[InputImage]:
    """Each file once; a manifest may name an image in several rows, each with its own text."""
    kept: dict[tuple[str, str], InputImage] = {}
    for image in images:
        key = (os.path.abspath(image.path), "" if image.record is None else f"{image.record.line} {image.name}")
        if key in kept:
            warn("given more than once: it is read once", place=image.path)
        kept.setdefault(key, image)
    return list(kept.values())


def _names(images: Sequence[InputImage]) -> list[str]:
    """A name for each: its own, and as many of its folders before it as tell it from the others of that name."""
    folders = [Path(os.path.abspath(image.path)).parent.parts[1:] for image in images]
    bases = [image.name for image in images]
    for group in _equal([f"{folder}/{base}" for folder, base in zip(folders, bases, strict=True)]):
        for i in group:  # one folder holds a.png and a.jpg
            bases[i] = images[i].path.name.replace(".", "-")
    depth = dict.fromkeys(bases, 0)
    for _ in range(max(len(parts) for parts in folders) + 1):
        names = [
            short_id("-".join([*parts[max(0, len(parts) - depth[base]) :], base]))
            for parts, base in zip(folders, bases, strict=True)
        ]
        equal = _equal(names)
        if not equal:
            return names
        for base in {bases[i] for group in equal for i in group}:
            depth[base] += 1
    for i in (i for group in equal for i in group):  # folders a-b and a with b below
        names[i] += f"-{hashlib.sha256(os.path.abspath(images[i].path).encode()).hexdigest()[:8]}"
    return names


def _equal(names: Sequence[str]) -> list[list[int]]:
    counts = Counter(names)
    groups: dict[str, list[int]] = {name: [] for name, count in counts.items() if count > 1}
    for i, name in enumerate(names):
        if name in groups:
            groups[name].append(i)
    return list(groups.values())
