"""NRRD (.nrrd, .nhdr with its data beside it) and MetaImage (.mha, .mhd) by SimpleITK -> a `Volume`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError
from medvl.core.limits import head_of, is_gzip, open_plain
from medvl.data.volumes import Part, Volume, three_sides

HEADER = 65536  # bytes in which the text of a header ends
SPACING = {  # fields that give the spacing
    "NrrdImageIO": rb"^(spacings|space directions):(?!.*\bnan\b)",
    "MetaImageIO": rb"^\s*(ElementSpacing|ElementSize)\s*=",
}


def is_itk(path: Path) -> bool:
    """Whether a file is NRRD or MetaImage: by its first bytes, or the suffix."""
    head = head_of(path, 16)
    return (
        head[:4] == b"NRRD"
        or head[:10] == b"ObjectType"
        or path.name.lower().endswith((".nrrd", ".nhdr", ".mha", ".mhd"))
    )


def open_itk(path: Path) -> Volume:
    """The header; the voxels are read by `Volume.load`.

    Raises:
        InputError: unreadable; more than three axes; voxels that are neither a number nor three (a colour).
    """
    header = head_of(path, HEADER)
    plugin = "NrrdImageIO" if header[:4] == b"NRRD" else "MetaImageIO"
    form = "nrrd" if plugin == "NrrdImageIO" else "mha"
    with _reader(path, plugin) as reader:
        size, parts = tuple(int(side) for side in reader.GetSize()), int(reader.GetNumberOfComponents())
        num_axes = len(size)
        spacing, origin = np.array(reader.GetSpacing()), np.array(reader.GetOrigin())
        direction = np.array(reader.GetDirection()).reshape(num_axes, num_axes)
    if num_axes > 3 and any(side != 1 for side in size[3:]):
        raise InputError(f"a file of shape {size}", file=path, expected="one volume of up to three axes")
    if parts not in (1, 3):
        raise InputError(f"{parts} numbers a voxel", file=path, expected="one, or three of a colour")
    used = min(num_axes, 3)
    affine = np.eye(4)
    affine[:used, :used] = (direction @ np.diag(spacing))[:used, :used]
    affine[:used, 3] = origin[:used]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK's axes run to the left and to the back

    def load(part: Part) -> NDArray[Any]:
        import SimpleITK

        ranges = [one.indices(side) for one, side in zip(part, three_sides(size), strict=True)]
        with _reader(path, plugin) as reader:
            reader.SetExtractIndex([ranges[i][0] if i < 3 else 0 for i in range(num_axes)])
            reader.SetExtractSize([ranges[i][1] - ranges[i][0] if i < 3 else 1 for i in range(num_axes)])
            voxels = SimpleITK.GetArrayFromImage(reader.Execute())  # (z, y, x[, 3])
        sides = [stop - start for start, stop, _ in ranges]
        return np.asarray(voxels.reshape(*sides[::-1], *((3,) if parts == 3 else ())).swapaxes(0, 2))

    known = re.search(SPACING[plugin], header, re.MULTILINE | re.IGNORECASE) is not None
    return Volume.of(path, form, size[:3], affine, load, _bits(path, plugin), is_colour=parts == 3, has_spacing=known)


def _bits(path: Path, plugin: str) -> int:
    import SimpleITK

    with _reader(path, plugin) as reader:
        name = SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())
    found = re.search(r"(\d+)-bit", name)
    if found is None or "complex" in name:
        raise InputError(f"voxels of {name}", file=path, expected="one number a voxel, or a colour")
    return int(found[1])


@contextmanager
def _reader(path: Path, plugin: str) -> Iterator[Any]:
    """A reader that has read the header; what SimpleITK raises inside becomes an InputError."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory() as folder:
        source = path
        if is_gzip(path):
            source = Path(folder) / path.name.removesuffix(".gz")
            with open_plain(path) as file:
                source.write_bytes(file.read())
        try:
            reader = SimpleITK.ImageFileReader()
            reader.SetImageIO(plugin)
            reader.SetFileName(str(source))
            reader.ReadImageInformation()
            yield reader
        except InputError:
            raise
        except Exception as error:  # its text names places in its own sources
            raise InputError(
                f"unreadable {plugin.removesuffix('ImageIO').upper()} file ({type(error).__name__})",
                file=path,
                expected="a whole file, and the data file that a detached header names",
                remedy="export or copy it again",
            ) from None
