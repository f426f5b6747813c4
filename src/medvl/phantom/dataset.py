"""Phantoms: seeded synthetic chest images with report, masks, boxes and labels. For mechanisms and tests only.

No patient stands behind a phantom and nothing measured on one says anything about patients; every row says
`source=phantom`. A phantom is a pure function of (seed, index, size, kinds): a set of 100 is the beginning of a set of
2,000.
Indices 3k + 1 and 3k + 2 are two images of one patient, 3k is one of another.

Sides are the patient's (`data.laterality: patient`): the patient's left is on the viewer's right.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError, nearest, warn
from medvl.core.files import whole_folder
from medvl.data.box_table import Box
from medvl.data.record import ABSENT
from medvl.data.records import write_manifest
from medvl.phantom.image import SIDES, Lesion, Mask, Radiograph, draw_anatomy
from medvl.phantom.report import KINDS, Fact, Kind, Size, report

SPLITS = ("train", "val", "test")
NORMAL = "normal"
LICENCE = "CC0-1.0"
LESION_COUNTS = (0.28, 0.36, 0.24, 0.12)  # of 0, 1, 2, 3 lesions
MIN_SIZE = 48  # pixels; below it a small nodule would be two pixels wide
_BOXES = ("id", "cls", "x0", "y0", "x1", "y1")
_COLUMNS = (
    "id", "image", "text", "mask", *(f"mask_{kind}" for kind in KINDS), "mask_left_lung", "mask_right_lung",
    "mask_body", "labels", "lesions", "patient", "study", "view", "split", "licence", "source",
)  # fmt: skip
_README = """# Phantoms: synthetic chest images, no patients

{num} drawn pictures with made-up reports (`{command}`). They test mechanisms. Nothing
that is measured on them says anything about patients, and they are not for clinical use.

Sides are the patient's: `data.laterality: patient`. Licence: {licence}.

- `manifest.csv`: one row per image. `mask` = all lesions the report names, `mask_KIND` = those of one kind ({kinds}), `none` where there is none.
  `mask_left_lung`, `mask_right_lung`: the visible lungs, with what lies in them, without the part behind the heart. `mask_body`: the patient. `lesions`: kind,
  side, thirds of the visible lung that hold a quarter of it or more (effusion and pneumothorax: three quarters), size.
- `boxes.csv`: one box per lesion; cls `none` of an image without any.
"""  # noqa: E501


@dataclass(frozen=True, slots=True)
class Phantom:
    """One image and all that is known of it. Masks are (H, W) bool, H = W = size."""

    id: str
    patient: str
    image: NDArray[np.uint8]  # (H, W)
    text: str
    lesions: tuple[Lesion, ...]
    lungs: Mapping[str, Mask]  # left, right
    zones: NDArray[np.uint8]  # (H, W) 0 outside, 1..3 right upper, middle, lower third, 4..6 left
    body: Mask

    @property
    def facts(self) -> tuple[Fact, ...]:
        """What the report says, in the words' own terms."""
        return tuple(Fact(lesion.kind, lesion.side, lesion.zones, lesion.size) for lesion in self.lesions)

    @property
    def boxes(self) -> tuple[Box, ...]:
        """One box per lesion, in pixels; x1 and y1 are the first column and row behind it."""
        boxes = []
        for lesion in self.lesions:
            rows, columns = (np.flatnonzero(lesion.mask.any(axis=axis)) for axis in (1, 0))
            boxes.append(Box(lesion.kind, columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        return tuple(boxes)

    def masks(self) -> dict[str, Mask]:
        """By column: `mask` and `mask_KIND` for kinds that are there; lungs and body always."""
        masks: dict[str, Mask] = {}
        for lesion in self.lesions:
            for name in ("mask", f"mask_{lesion.kind}"):
                masks[name] = masks.get(name, np.zeros_like(lesion.mask)) | lesion.mask
        masks |= {f"mask_{side}_lung": mask for side, mask in self.lungs.items()}
        return masks | {"mask_body": self.body}


def draw_phantom(index: int, *, size: int = 96, seed: int = 0, kinds: Sequence[Kind] = KINDS) -> Phantom:
    """The phantom of one index. Words and lesions are drawn apart from the grain of the image.

    0 to 3 lesions (`LESION_COUNTS`) of the `kinds`; one that finds no room in 40 tries is not drawn and not named, and
    of few kinds there may be fewer (`_draw_kinds`). The report is made from what was drawn.
    """
    patient = index // 3 * 2 + min(index % 3, 1)
    anatomy = draw_anatomy(np.random.default_rng([seed, 1, patient]))
    plan_rng = np.random.default_rng([seed, 2, index])
    radiograph = Radiograph(anatomy, plan_rng, size)
    drawn = _draw_kinds(np.random.default_rng([seed, 3, index]), kinds)
    sizes: tuple[Size, ...] = ("small", "moderate", "large")
    enlarged = sizes[int(plan_rng.integers(3))]
    radiograph.set_heart(enlarged=enlarged if "cardiomegaly" in drawn else None)
    for kind in drawn:
        if kind != "cardiomegaly":
            radiograph.add(kind)
    image, device = radiograph.expose(np.random.default_rng([seed, 4, index]))
    facts = [Fact(lesion.kind, lesion.side, lesion.zones, lesion.size) for lesion in radiograph.lesions]
    text = report(facts, np.random.default_rng([seed, 5, index]), device=device, first=index % 3 != 2)
    return Phantom(
        id=f"phantom{index:06d}",
        patient=f"phantom-patient{patient:06d}",
        image=image,
        text=text,
        lesions=tuple(radiograph.lesions),
        lungs={side: radiograph.lungs[side] for side in SIDES},
        zones=radiograph.zones,
        body=(radiograph.body() > 0.5) & radiograph.visible,
    )


def make_phantoms(
    folder: str | Path,
    *,
    num: int,
    size: int = 96,
    seed: int = 0,
    splits: Sequence[float] = (0.8, 0.1, 0.1),
    kinds: Sequence[Kind] = KINDS,
    progress: Callable[[Iterable[int], int], Iterable[int]] | None = None,
) -> Path:
    """Write `num` phantoms as a set: images/, masks/, manifest.csv, boxes.csv, README.md. Returns the manifest.

    Args:
        folder: a new or empty folder; it is there whole or not at all.
        size: height and width in pixels, at least `MIN_SIZE`.
        splits: the parts of train, val and, if three, test; sum 1. A patient's split is a hash of seed and patient, so
            the parts are met on average only, and no phantom changes its split when `num` grows.
        kinds: what lesions there are, in any order.
        progress: wraps the loop, given the indices and their number.

    Raises:
        InputError: a folder that holds something, a number out of range, an unknown kind or none.
    """
    import cv2

    folder = Path(folder)
    _check(folder, num, size, seed, splits, kinds)
    rows, boxes = [], []

    def write(name: str, pixels: NDArray[np.uint8]) -> str:
        (work / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        return name

    with whole_folder(folder) as work:
        for name in ("images", "masks"):
            (work / name).mkdir()
        for index in range(num) if progress is None else progress(range(num), num):
            phantom = draw_phantom(index, size=size, seed=seed, kinds=kinds)
            rows.append(_row(phantom, write) | {"split": _split_of(seed, phantom.patient, splits)})
            if not phantom.boxes:
                boxes.append({"id": phantom.id, "cls": ABSENT})
            for box in phantom.boxes:
                corners = (box.x0, box.y0, box.x1, box.y1)
                boxes.append(dict(zip(_BOXES, (phantom.id, box.label, *map(str, corners)), strict=True)))
        write_manifest(work / "boxes.csv", boxes, _BOXES)
        write_manifest(work / "manifest.csv", rows, _COLUMNS)
        command = f"medvl data phantom --num {num} --size {size} --seed {seed}"
        if set(kinds) != set(KINDS):
            command += f" --kinds {','.join(kind for kind in KINDS if kind in kinds)}"
        about = _README.format(command=command, num=num, licence=LICENCE, kinds=", ".join(KINDS))
        (work / "README.md").write_text(about, encoding="utf-8")
    counts = Counter(row["split"] for row in rows)
    empty = [name for name, _ in zip(SPLITS, splits, strict=False) if not counts[name]]
    if empty:
        warn(f"{folder}: no phantom of {num} fell into {', '.join(empty)}; a larger --num fills every split")
    return folder / "manifest.csv"


def _row(phantom: Phantom, write: Callable[[str, NDArray[np.uint8]], str]) -> dict[str, str]:
    """The row of the manifest without its split; the image and the masks are written."""
    row = dict.fromkeys(("mask", *(f"mask_{kind}" for kind in KINDS)), ABSENT)
    for column, mask in phantom.masks().items():
        part = column.removeprefix("mask").replace("_", "-")
        row[column] = write(f"masks/{phantom.id}{part}.png", mask.astype(np.uint8) * 255)
    return row | {
        "id": phantom.id,
        "image": write(f"images/{phantom.id}.png", phantom.image),
        "text": phantom.text,
        "labels": "|".join(kind for kind in KINDS if any(f.kind == kind for f in phantom.facts)) or NORMAL,
        "lesions": "|".join(map(str, phantom.facts)),
        "patient": phantom.patient,
        "study": phantom.id,
        "view": "PA",
        "licence": LICENCE,
        "source": "phantom",
    }


def _draw_kinds(rng: np.random.Generator, kinds: Sequence[Kind]) -> list[Kind]:
    """The kinds of the lesions to draw, those that lie at a fixed place first. Only one heart can be enlarged, a
    second pneumothorax is left out, and so is a third of any other kind."""
    most = {kind: 1 if kind in ("cardiomegaly", "pneumothorax") else 2 for kind in KINDS if kind in kinds}
    drawn: list[Kind] = []
    for _ in range(int(rng.choice(4, p=LESION_COUNTS))):
        if free := [kind for kind in most if drawn.count(kind) < most[kind]]:
            drawn.append(free[int(rng.integers(len(free)))])
    order: tuple[Kind, ...] = ("cardiomegaly", "pneumothorax", "effusion", "consolidation", "nodule")
    return sorted(drawn, key=order.index)


def _split_of(seed: int, patient: str, splits: Sequence[float]) -> str:
    digest = hashlib.sha256(f"{seed}/{patient}".encode()).digest()
    place = int.from_bytes(digest[:6], "big") / 2**48
    for name, end in zip(SPLITS, np.cumsum(splits), strict=False):
        if place < end:
            return name
    return SPLITS[len(splits) - 1]


def _check(folder: Path, num: int, size: int, seed: int, splits: Sequence[float], kinds: Sequence[str]) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError.exists("the folder is not empty", file=folder, expected="a new folder")
    for name, value, least in (("num", num, 1), ("size", size, MIN_SIZE), ("seed", seed, 0)):
        if value < least:
            raise InputError.out_of_range(f"--{name} is {value}", expected=f"at least {least}")
    if len(splits) not in (2, 3) or min(splits) <= 0 or abs(sum(splits) - 1) > 1e-6:
        given = ",".join(f"{part:g}" for part in splits)
        raise InputError.malformed(f"--splits is {given}", expected="train,val[,test], above 0, with the sum 1")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds or len(set(kinds)) < len(kinds):
        like = nearest(unknown[0], KINDS) if unknown else None
        raise InputError.unknown(
            f"--kinds is {','.join(kinds) or 'empty'}",
            expected=f"of {', '.join(KINDS)}, each once, with commas between",
            remedy=f"did you mean {like}?" if like else None,
        )
