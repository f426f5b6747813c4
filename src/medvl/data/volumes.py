"""Volumes in files -> slices as images and masks: NIfTI by nibabel, NRRD and MetaImage by SimpleITK.

NRRD: .nrrd, or .nhdr with its data beside it. MetaImage: .mha, or .mhd with its data beside it. `volume.py` says which
way a slice is displayed.
"""

from __future__ import annotations

import gzip
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError, warn
from medvl.data.image import PERCENTILES, Image, nan_background
from medvl.data.mask_colours import StoredMask
from medvl.data.packed import head_of, in_pack, is_gzip, is_plain, open_file, open_plain
from medvl.data.volume import MILLIMETRES, NiftiSlice, Part, Volume, shown, three_sides

AXES = ("sagittal", "coronal", "axial")
VECTORS = (1007, 2003, 2004)  # intents of NIfTI: vector, RGB, RGBA
MIN_COLOUR_SIDE = 16  # of a picture whose third axis is its colours; smaller ones are volumes of three slices
ITK_HEADER = 65536  # bytes in which the text of a header ends
ITK_SPACING = {  # fields that give the spacing
    "NrrdImageIO": rb"^(spacings|space directions):(?!.*\bnan\b)",
    "MetaImageIO": rb"^\s*(ElementSpacing|ElementSize)\s*=",
}


def read_volume(
    path: Path, *, window: tuple[float, float] | None = None, slice_index: int | None = None, axis: int = 2
) -> Image:
    """One slice as an Image; values between the 0.5th and 99.5th percentile become 0..1 unless `window` is given.

    NaN is background: it takes no part in the percentiles and is shown as 0, with a warning. Colours of bytes are
    scaled by 255.

    Raises:
        InputError: unreadable; more than one slice and no `slice_index`; an index outside; infinite values.
    """
    volume = open_volume(path, as_slices=slice_index is not None)
    if volume.is_colour and len(volume.shape) == 2:
        warn("three planes of bytes are read as colours; data.slice_index reads them apart", place=path)
    axis, index = _chosen(volume, slice_index, axis)
    plane = volume.plane(index, axis)
    with np.errstate(over="ignore"):
        values = plane.astype(np.float32)
    background = nan_background(values, path)
    if window is not None:
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    elif volume.is_colour and plane.dtype == np.uint8:
        low, high = 0.0, 255.0
    else:
        known = values if background is None else values[~background]
        low, high = (float(v) for v in np.percentile(known, PERCENTILES))
    pixels = np.clip((values - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    if background is not None:
        pixels[background] = 0
    reference = NiftiSlice(volume.affine, volume.shape, volume.to_canonical, axis, index, volume.unit)
    pixels = np.ascontiguousarray(pixels)
    return Image(pixels, volume.spacing_mm(axis), path, bits=volume.bits, format=volume.form, reference=reference)


def read_volume_mask(path: Path, *, slice_index: int | None = None, axis: int = 2) -> StoredMask:
    """One slice (H, W) of a mask, with the whole volume, whose values decide what those of the slice mean."""
    volume = open_volume(path, as_slices=slice_index is not None)
    axis, index = _chosen(volume, slice_index, axis)
    voxels = volume.canonical()
    whole = voxels if voxels.shape[axis] > 1 and not volume.is_colour else None
    return StoredMask(path, shown(np.take(voxels, index, axis=axis)), volume=whole)


def volume_size(path: Path, axis: int = 2) -> tuple[int, int]:
    """(H, W) of a displayed slice, from the header."""
    return open_volume(path).plane_size(axis)


def volume_slices(path: Path, axis: int = 2, *, as_slices: bool = False) -> int:
    """How many slices there are along `axis`, from the header."""
    volume = open_volume(path, as_slices=as_slices)
    return volume.sides[volume.slice_axis(axis)]


def volume_grid(path: Path) -> tuple[NDArray[np.float64], tuple[int, int, int], bool]:
    """From the header: the affine (4, 4), voxel -> mm in RAS, the sides of the volume as it is stored (three planes of
    bytes count as three slices), and whether these planes are read as colours where no slice is asked for."""
    volume = open_volume(path, as_slices=True)
    scaled = volume.affine.copy()
    scaled[:3] *= MILLIMETRES.get(volume.unit, 1.0)
    return scaled, three_sides(volume.shape), open_volume(path).shape != volume.shape


def open_volume(path: Path, *, as_slices: bool = False) -> Volume:
    """The header of a NIfTI, NRRD or MetaImage file. InputError as the readers of these."""
    return open_itk(path) if _is_itk(path) else open_nifti(path, as_slices=as_slices)


def _chosen(volume: Volume, slice_index: int | None, axis: int) -> tuple[int, int]:
    """The axis and the index of the slice that is asked for."""
    axis = volume.slice_axis(axis)
    volume.plane_size(axis)
    num_slices = volume.sides[axis]
    if slice_index is None:
        if num_slices > 1:
            raise InputError.ambiguous(
                f"a volume of {' x '.join(map(str, volume.sides))} voxels (left-right, posterior-anterior, "
                "inferior-superior)",
                file=volume.path,
                expected=f"data.slice_index from 0 to {num_slices - 1} ({AXES[axis]})",
            )
        slice_index = 0
    if not 0 <= slice_index < num_slices:
        raise InputError.out_of_range(
            f"slice {slice_index} of {num_slices}", file=volume.path, expected=f"0 to {num_slices - 1}"
        )
    return axis, slice_index


def open_nifti(path: Path, *, as_slices: bool = False) -> Volume:
    """The header of a .nii, .nii.gz or .hdr; the voxels are read by `Volume.load`.

    Args:
        as_slices: three planes of bytes are three slices, and not the colours of a picture.

    Raises:
        InputError: unreadable; more than one volume; voxels that are no number and no colour; no orientation.
    """
    try:
        image = _nifti_image(path)
        shape = tuple(int(side) for side in image.shape)
        kind = image.get_data_dtype()
        affine, intent = np.asarray(image.affine), int(image.header["intent_code"])
    except InputError:
        raise
    except Exception as error:  # nibabel, gzip and zlib each raise their own
        raise _unreadable_nifti(path, error) from None
    planes = _colour_axis(shape, kind, intent, as_slices)
    spatial = shape if planes is None or kind.fields else shape[:planes]
    if not 2 <= len(shape) or any(side != 1 for side in spatial[3:]) or not all(shape):
        raise InputError.wrong_shape(f"a NIfTI of shape {shape}", file=path, expected="one volume of up to three axes")
    if kind.kind not in "iuf" and not (kind.fields and set(kind.names) >= {"R", "G", "B"}):
        raise InputError.unsupported(f"a NIfTI of {kind} voxels", file=path, expected="one number a voxel, or a colour")

    def load(part: Part) -> NDArray[Any]:
        try:
            if planes is not None and not kind.fields:  # the colours are the last axis, behind axes of 1
                return np.asarray(image.dataobj).reshape(*three_sides(spatial), 3)[part]
            data = np.asanyarray(image.dataobj[part] if len(shape) == 3 else image.dataobj)
            data = data.reshape(*data.shape[:2], -1) if len(shape) == 3 else data.reshape(three_sides(spatial))[part]
            return np.stack([data[name] for name in ("R", "G", "B")], axis=-1) if kind.fields else np.asarray(data)
        except Exception as error:
            raise _unreadable_nifti(path, error) from None

    bits = 8 if kind.fields else 8 * kind.itemsize
    return Volume.of(path, "nifti", spatial, affine, load, bits, unit=_nifti_unit(image), is_colour=planes is not None)


def _nifti_image(path: Path) -> Any:
    import nibabel

    name, is_packed = path.name.lower(), in_pack(path) is not None
    if is_packed and name.endswith(".hdr"):
        folder = tempfile.TemporaryDirectory()
        image = nibabel.load(_copied_out(path, Path(folder.name)))
        weakref.finalize(image, folder.cleanup)  # the voxels are read when they are asked for
        return image
    if name.endswith((".nii", ".nii.gz", ".hdr")) and is_gzip(path) == name.endswith(".gz") and not is_packed:
        return nibabel.load(path)
    file: Any = open_file(path)
    if is_gzip(path):
        # With its own suffix it is unpacked as far as it is read, else (it may be anything) within bounds.
        file = gzip.GzipFile(fileobj=file) if name.endswith(".nii.gz") else open_plain(path)
    kind = nibabel.Nifti2Image if file.read(6)[4:6] == b"n+" else nibabel.Nifti1Image
    file.seek(0)
    return kind.from_stream(file)


def _colour_axis(shape: tuple[int, ...], kind: Any, intent: int, as_slices: bool) -> int | None:
    """Which axis holds red, green and blue (of a structured type: the one behind the last); None where none does."""
    if kind.fields:
        return len(shape)
    last = len(shape) - 1
    if last < 2 or shape[last] != 3 or any(side != 1 for side in shape[3:last]):
        return None
    if last == 2:
        large = min(shape[:2]) >= MIN_COLOUR_SIDE
        return 2 if kind == np.uint8 and large and not as_slices else None
    return last if kind == np.uint8 or intent in VECTORS or shape[2] == 1 else None


def _unreadable_nifti(path: Path, error: Exception) -> InputError:
    # nibabel names the file at length in its own message; the kind of error says as much.
    what = f"unreadable NIfTI: damaged, cut off or another format ({type(error).__name__})"
    return InputError.damaged(what, file=path, expected="a whole .nii or .nii.gz", remedy="export or copy it again")


def _nifti_unit(image: Any) -> str:
    try:
        return str(image.header.get_xyzt_units()[0])
    except KeyError:  # a code that the format does not know
        return "unknown"


def _is_itk(path: Path) -> bool:
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
    import SimpleITK

    header = head_of(path, ITK_HEADER)
    plugin = "NrrdImageIO" if header[:4] == b"NRRD" else "MetaImageIO"
    form = "nrrd" if plugin == "NrrdImageIO" else "mha"
    with _itk_reader(path, plugin) as reader:
        size, parts = tuple(int(side) for side in reader.GetSize()), int(reader.GetNumberOfComponents())
        num_axes = len(size)
        spacing, origin = np.array(reader.GetSpacing()), np.array(reader.GetOrigin())
        direction = np.array(reader.GetDirection()).reshape(num_axes, num_axes)
        kind = SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())
    if num_axes > 3 and any(side != 1 for side in size[3:]):
        raise InputError.wrong_shape(f"a file of shape {size}", file=path, expected="one volume of up to three axes")
    if parts not in (1, 3):
        raise InputError.unsupported(f"{parts} numbers a voxel", file=path, expected="one, or three of a colour")
    bits = re.search(r"(\d+)-bit", kind)
    if bits is None or "complex" in kind:
        raise InputError.unsupported(f"voxels of {kind}", file=path, expected="one number a voxel, or a colour")
    used = min(num_axes, 3)
    affine = np.eye(4)
    affine[:used, :used] = (direction @ np.diag(spacing))[:used, :used]
    affine[:used, 3] = origin[:used]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK's axes run to the left and to the back

    def load(part: Part) -> NDArray[Any]:
        ranges = [one.indices(side) for one, side in zip(part, three_sides(size), strict=True)]
        with _itk_reader(path, plugin) as reader:
            reader.SetExtractIndex([ranges[i][0] if i < 3 else 0 for i in range(num_axes)])
            reader.SetExtractSize([ranges[i][1] - ranges[i][0] if i < 3 else 1 for i in range(num_axes)])
            voxels = SimpleITK.GetArrayFromImage(reader.Execute())  # (z, y, x[, 3])
        sides = [stop - start for start, stop, _ in ranges]
        return np.asarray(voxels.reshape(*sides[::-1], *((3,) if parts == 3 else ())).swapaxes(0, 2))

    known = re.search(ITK_SPACING[plugin], header, re.MULTILINE | re.IGNORECASE) is not None
    return Volume.of(path, form, size[:3], affine, load, int(bits[1]), is_colour=parts == 3, has_spacing=known)


@contextmanager
def _itk_reader(path: Path, plugin: str) -> Iterator[Any]:
    """A reader that has read the header; what SimpleITK raises inside becomes an InputError.

    SimpleITK reads files alone: of one in a pack, or in gzip, a copy stands in a temporary folder meanwhile.
    """
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory() as folder:
        source = path if in_pack(path) is None else _copied_out(path, Path(folder))
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
            raise InputError.damaged(
                f"unreadable {plugin.removesuffix('ImageIO').upper()} file ({type(error).__name__})",
                file=path,
                expected="a whole file, and the data file that a detached header names",
                remedy="export or copy it again",
            ) from None


def companions(path: Path) -> tuple[str, ...]:
    """Names of the files that hold the voxels of a detached header (.nhdr, .mhd, .hdr); () where it holds them itself.

    Raises:
        InputError: a header whose voxels are in several files, or not beside it.
    """
    if path.name.lower().endswith(".hdr"):
        names = [path.name[:-3] + ("IMG" if path.name.endswith("HDR") else "img")]
    elif not _is_itk(path):
        return ()
    else:
        head = head_of(path, 16 * ITK_HEADER)
        if head[:4] == b"NRRD":
            end = re.search(rb"\r?\n\r?\n", head)
            head = head[: end.start()] if end else head
            values = re.findall(rb"^data ?file:(.*)$", head, re.MULTILINE | re.IGNORECASE)
        else:
            values = re.findall(rb"^\s*ElementDataFile\s*[=:](.*)$", head, re.MULTILINE)[:1]
            values = [] if values and values[0].strip() == b"LOCAL" else values or [b""]
        names = [name.decode(errors="replace").strip() for name in values]
    for name in names:
        if "/" in name or not is_plain(name) or name in ("LIST", "LOCAL") or "%" in name or " " in name:
            what = f"a header whose voxels are in {name or '(no file)'}"
            raise InputError.unsupported(
                what, file=path, expected="one file beside it", remedy="write it as one .nrrd or .mha"
            )
    return tuple(names)


def _copied_out(path: Path, folder: Path) -> Path:
    """Copy a file of a pack, and what belongs to it, into a folder."""
    for name in (path.name, *companions(path)):
        with open_file(path.with_name(name)) as source, (folder / name).open("wb") as target:
            shutil.copyfileobj(source, target)
    return folder / path.name
