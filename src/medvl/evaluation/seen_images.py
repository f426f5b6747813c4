"""How many of the scored images a model was trained on, in any of its stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from medvl.core.errors import warn
from medvl.data.hashes import Overlap, count_seen, image_hashes, read_stages
from medvl.data.record import Record
from medvl.inference.model_folder import find_model


def seen_images(model: str | Path, records: Iterable[Record]) -> Overlap | None:
    """Count the images of `records` among those of the model's stages; None where the model does not say.

    Raises:
        InputError: no model folder, or a damaged list of images.
    """
    stages = read_stages(find_model(model))
    return None if stages is None else count_seen(stages, image_hashes(records).values())


def say_seen(overlap: Overlap | None, split: str) -> list[str]:
    """The notes about `overlap` for a summary (none, or one sentence), which are warned of here."""
    line = None if overlap is None else overlap.line("scored" if split == "all" else split)
    if line is None:
        return []
    note = f"{line}; the scores of these are too good"
    warn(note)
    return [note]


def seen_fact(summary_entry: Mapping[str, object] | None) -> str:
    """The entry `seen_images` of a summary in words, for reports."""
    if summary_entry is None:
        return "not known: the model does not say which images it was trained on"
    return f"{summary_entry['trained_on']} of {summary_entry['images']} scored images"
