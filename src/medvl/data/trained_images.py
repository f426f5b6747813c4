"""Which images a model was trained on, stage by stage, and how many of some other images are among them.

A model that starts from another one has seen the images of both. Images are known by the SHA-256 of their files, so
that another name, folder or manifest hides nothing; the same picture saved in another format is another file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvl.core.errors import InputError
from medvl.core.files import read_json, write_json

FILE = "trained_on.json"
FORMAT = "medvl-trained-on/1"
DIGITS = 16  # of a hash: 64 bits tell the images of any set apart


@dataclass(frozen=True, slots=True)
class Stage:
    """One training: its task, the file name of its manifest, the images of its train split (shortened hashes)."""

    task: str
    manifest: str
    images: frozenset[str]


@dataclass(frozen=True, slots=True)
class Overlap:
    """How many of `num_images` distinct images each stage was trained on; `by_stage` leaves out stages without any."""

    num_images: int
    by_stage: tuple[tuple[Stage, int], ...]
    num_seen: int  # by any stage

    def line(self, what: str) -> str | None:
        """A sentence for the terminal and the report; None where no image was trained on."""
        if not self.num_seen:
            return None
        parts = [f"{number} in {stage.task} ({stage.manifest})" for stage, number in self.by_stage]
        return f"{self.num_seen} of the {self.num_images} {what} images were trained on: {', '.join(parts)}"

    def as_dict(self) -> dict[str, object]:
        """For summary.json and plan.json."""
        stages = [{"task": s.task, "manifest": s.manifest, "images": number} for s, number in self.by_stage]
        return {"images": self.num_images, "trained_on": self.num_seen, "stages": stages}


def stage_of(task: str, manifest: str | Path, hashes: Iterable[str]) -> Stage:
    """The stage of a run that trains on images of these hashes."""
    return Stage(task, Path(manifest).name, frozenset(digest[:DIGITS] for digest in hashes))


def count_seen(stages: Sequence[Stage], hashes: Iterable[str]) -> Overlap:
    """How many of some images (by hash; equal ones count once) the stages were trained on."""
    images = {digest[:DIGITS] for digest in hashes}
    counts = [(stage, len(images & stage.images)) for stage in stages]
    seen = images & frozenset().union(*(stage.images for stage in stages))
    return Overlap(len(images), tuple((stage, number) for stage, number in counts if number), len(seen))


def write_stages(folder: Path, stages: Sequence[Stage]) -> None:
    """Write FOLDER/trained_on.json."""
    rows = [{"task": s.task, "manifest": s.manifest, "images": sorted(s.images)} for s in stages]
    write_json(folder / FILE, {"format": FORMAT, "stages": rows})


def read_stages(folder: Path) -> tuple[Stage, ...] | None:
    """The stages of a model folder; None where it does not say (a model of an older version).

    Raises:
        InputError: a damaged file.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    stored = read_json(path)
    try:
        rows = stored["stages"]
        return tuple(Stage(str(row["task"]), str(row["manifest"]), frozenset(map(str, row["images"]))) for row in rows)
    except (TypeError, KeyError) as error:
        raise InputError.damaged(f"damaged ({error})", file=path, expected="the images of each stage") from None
