"""The shipped model and the image that it is shown on, in pictures and README. Another model: change the constants."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import medvl
from medvl.data.masks import read_mask
from medvl.data.record import Manifest, Record
from medvl.inference.model_folder import find_model

MODEL = "medvl:lvit_regions"
DATA = "medvl:cxr_regions"
SPLIT = "val"
IMAGE = "pl0003"  # the first image of the validation split
PROMPTS = ("right upper zone", "lower zone of the left lung", "both lungs")
CREDIT = "Radiograph: Kermany et al., Mendeley Data 10.17632/rscbjbr9sj.2, CC BY 4.0."
MASK_CREDIT = "Lung outlines: V7 Labs, CC BY 4.0."


@cache
def table() -> Manifest:
    """The shipped images with their prompts and masks."""
    return medvl.load_manifest(DATA)


@cache
def predictor() -> Any:
    """The model with IMAGE set."""
    return medvl.load(MODEL).set_image(rows()[0].image)


def card() -> dict[str, Any]:
    """card.json of the model."""
    values: dict[str, Any] = json.loads((find_model(MODEL) / "card.json").read_text(encoding="utf-8"))
    return values


def rows() -> list[Record]:
    """The rows of IMAGE, one a prompt."""
    return [record for record in table().split(SPLIT) if record.image.stem == IMAGE]


def pixels() -> NDArray[np.float32]:
    """IMAGE, (H, W) in [0, 1]."""
    return np.asarray(medvl.read_image(rows()[0].image).pixels, dtype=np.float32).squeeze()


def truth(record: Record) -> NDArray[np.bool_]:
    """The mask of a row, (H, W)."""
    reference = record.masks["mask"]
    assert reference is not None and reference.path is not None
    return read_mask(reference.path, values=reference.values)
