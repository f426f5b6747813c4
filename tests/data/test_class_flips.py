"""Classes that name a side or a height under flips and turns: masks, labels and boxes by one rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medvl.config import ClassifyConfig, Config, make_config
from medvl.config.augment import AugmentConfig
from medvl.core.errors import InputError
from medvl.data.box_labels import BoxDataset, box_labels
from medvl.data.class_flips import ClassFlips
from medvl.data.class_labels import ClassDataset, class_labels
from medvl.data.dataset import SegmentDataset
from medvl.data.geometry import Affine, fit
from medvl.data.records import load_manifest

STILL: dict[str, Any] = {
    "max_rotate_deg": 0, "max_shift": 0, "scale": [1, 1], "max_gamma": 0, "max_contrast": 0, "max_brightness": 0,
    "max_noise": 0,
}  # fmt: skip
SIDES = ("Left Lung", "Right Lung")


def flip(left_right: bool, up_down: bool) -> Affine:
    base = fit((8, 8), (8, 8))
    return Affine(base.matrix, (8, 8), (8, 8), left_right, up_down)


def order_of(classes: tuple[str, ...], left_right: bool = True, up_down: bool = False, **options: Any) -> list[int]:
    drawn = {"p_flip_lr": 0.5 if left_right else 0.0, "p_flip_ud": 0.5 if up_down else 0.0, **options}
    return ClassFlips(classes, AugmentConfig(**drawn)).order(flip(left_right, up_down)).tolist()


@pytest.mark.parametrize(
    "classes",
    [
        ("left_lung", "right_lung"), ("LeftLung", "RightLung"), ("lung-left", "lung-right"), ("lung_L", "lung_R"),
        ("lungL", "lungR"), ("l_lung", "r_lung"), ("(L) lung", "(R) lung"), ("RUL", "LUL"),
        ("rll", "left_lower_lobe"), ("RLZ", "LLZ"), ("Left lower zone", "Right lower zone"),
        ("left lung opacity", "right lung opacity"), ("LEFT-SIDED EFFUSION", "RIGHT-SIDED EFFUSION"),
        ("LT_lung", "RT_lung"), ("leftlung", "rightlung"),
    ],
)  # fmt: skip
def test_a_flip_exchanges_the_mirrored_names(classes: tuple[str, str]) -> None:
    assert order_of((classes[0], "heart", classes[1])) == [2, 1, 0]
    for name in classes:  # without its counterpart there is no name for what the flip makes of it
        with refused("mismatch") as caught:
            order_of((name, "heart"))
        assert name in str(caught.value) and "p_flip_lr: 0" in str(caught.value)
        assert ClassFlips((name, "heart"), AugmentConfig()).order(flip(False, False)).tolist() == [0, 1]


@pytest.mark.parametrize(
    "name",
    ["bilateral effusion", "both_lungs", "left and right lung", "R_L", "Lung Opacity", "Enlarged Cardiomediastinum",
     "superior_vena_cava", "upper_limb", "RT_dose", "L1_vertebra", "mask", "No Finding"],
)  # fmt: skip
def test_other_names_stay(name: str) -> None:
    for flips in ((True, False), (False, True), (True, True)):
        assert order_of(("nodule", name), *flips) == [0, 1]
    assert ClassFlips((name,), AugmentConfig(scheme="released")).order(flip(True, True)).tolist() == [0]


def test_heights_are_exchanged_by_flips_upside_down() -> None:
    zones = ("left_upper_zone", "left_lower_zone", "right_upper_zone", "right_lower_zone")
    assert order_of(zones, True, False) == [2, 3, 0, 1]
    assert order_of(zones, False, True) == [1, 0, 3, 2]
    assert order_of(zones, True, True) == [3, 2, 1, 0]
    assert order_of(("apex", "base", "left", "right"), False, True) == [1, 0, 2, 3]


@pytest.mark.parametrize(
    ("classes", "options"),
    [
        (("RML", "LUL", "RUL"), {"p_flip_lr": 0.5}),  # there is no middle lobe on the left
        (("L>R effusion",), {"p_flip_lr": 0.5}),  # more on the left is not both sides alike
        (("left upper and right lower zone",), {"p_flip_lr": 0.5}),
        (("left_lung", "right_lung", "Right Lung"), {"p_flip_lr": 0.5}),  # which of the two?
        (("lunge_links", "lunge_rechts"), {"p_flip_lr": 0.5}),  # the rules are English
        (("upper_zone",), {"p_flip_ud": 0.1}),
        (SIDES, {"p_rot90": 0.1}),
        (("upper_zone", "lower_zone"), {"p_rot90": 0.1}),
        (SIDES, {"scheme": "released"}),
        (SIDES, {"scheme": "released", "flip_text": "keep"}),
    ],
)
def test_what_cannot_be_put_into_names_is_refused(classes: tuple[str, ...], options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        ClassFlips(classes, AugmentConfig(**options))
    assert any(name in str(caught.value) for name in classes) and "data.augment" in str(caught.value)
    ClassFlips(classes, AugmentConfig(**{**options, "p_affine": 0.0, "scheme": "medvl"}))  # nothing is drawn
    ClassFlips(classes, AugmentConfig(**{**options, "scheme": "none"}))
    ClassFlips(classes, AugmentConfig())


def test_protocols_that_flip_obey() -> None:
    for name, task in (("kad_finetune", "classify"), ("medklip_segmentation", "segment")):
        augment = make_config({"protocol": name, "task": task}).data.augment
        ClassFlips(("Atelectasis", "Edema", "mask"), augment)
        assert ClassFlips(SIDES, augment).order(flip(True, False)).tolist() == [1, 0]
        with refused("mismatch"):
            ClassFlips(SIDES[:1], augment)
    for fidelity in ("paper", "released"):
        with refused("conflict"):
            ClassFlips(SIDES, make_config({"fidelity": fidelity}).data.augment)


@settings(max_examples=50, deadline=None)
@given(
    parts=st.lists(st.sampled_from(["lung", "upper_zone", "Lower Zone", "rib3", "effusion"]), max_size=4, unique=True),
    others=st.lists(st.sampled_from(["heart", "bilateral", "mask"]), max_size=3, unique=True),
    shape=st.sampled_from(["left_{}", "{}_L", "l_{}", "Left {}"]),
    seed=st.integers(0, 99),
)
def test_two_flips_are_none(parts: list[str], others: list[str], shape: str, seed: int) -> None:
    right = shape.replace("left", "right").replace("Left", "Right").replace("_L", "_R").replace("l_", "r_")
    names = [form.format(part) for part in parts for form in (shape, right)] + others
    names = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    order = np.array(order_of(tuple(names)), dtype=int)
    assert order[order].tolist() == list(range(len(names)))
    assert sum(order != np.arange(len(names))) == 2 * len(parts)


PIXELS = np.arange(96, dtype=np.uint8).reshape(8, 12)
LEFT, RIGHT, HEART = (np.zeros((8, 12), dtype=bool) for _ in range(3))
LEFT[1:4, 7:11] = True  # the patient's left is on the picture's right
RIGHT[2:7, 1:5] = True
HEART[5:8, 4:9] = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sides")
    for name, step in (("as_is", 1), ("mirrored", -1)):
        Image.fromarray(np.ascontiguousarray(PIXELS[:, ::step])).save(folder / f"{name}.png")
        for part, mask in (("l", LEFT), ("r", RIGHT), ("h", HEART)):
            Image.fromarray(np.where(mask[:, ::step], 255, 0).astype(np.uint8)).save(folder / f"{name}_{part}.png")
    rows = [
        "id,image,text,mask_left_lung,mask_right_lung,mask_heart,labels,boxes,split",
        "a,as_is.png,left lung,as_is_l.png,as_is_r.png,as_is_h.png,Left Lung,"
        "left_lung 7 1 11 4|right_lung 1 2 5 7,train",
        # the mirrored picture: what was on the right is on the left, and is called so
        "b,mirrored.png,right lung,mirrored_r.png,mirrored_l.png,mirrored_h.png,Right Lung,"
        "right_lung 1 1 5 4|left_lung 7 2 11 7,train",
    ]
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    return folder


def config_of(task: str = "segment", **augment: Any) -> Config:
    data = {"image_size": [8, 12], "in_channels": 1, "normalize": "none", "laterality": "patient"}
    return make_config({"task": task, "data": {**data, "augment": {**STILL, **augment}}})


def test_masks_of_a_flipped_sample_are_those_of_the_mirrored_image(folder: Path) -> None:
    records = load_manifest(folder / "m.csv").records
    classes = ("left_lung", "right_lung", "heart")
    dataset = SegmentDataset(records, classes, config_of(p_flip_lr=1.0).data, seed=0, train=True)
    plain = SegmentDataset(records, classes, config_of().data, seed=0, train=False)
    flipped, mirrored = dataset[3, 0], plain[1]
    assert flipped.affine.left_right and flipped.texts == mirrored.texts == ("right lung",)
    np.testing.assert_allclose(flipped.image[0], PIXELS[:, ::-1] / 255, atol=1e-6)
    np.testing.assert_array_equal(flipped.target[0], np.stack([RIGHT, LEFT, HEART])[:, :, ::-1])
    np.testing.assert_array_equal(flipped.target, mirrored.target)
    np.testing.assert_array_equal(dataset[3, 1].target, plain[0].target)  # and back: twice is none
    with refused("mismatch", naming="left_lung"):
        SegmentDataset(records, ("left_lung", "heart"), config_of(p_flip_lr=0.1).data, seed=0, train=True)
    SegmentDataset(records, ("left_lung", "heart"), config_of(p_flip_lr=0.1).data, seed=0, train=False)


def test_what_is_not_annotated_is_exchanged_too(folder: Path) -> None:
    rows = (folder / "m.csv").read_text().splitlines()
    (folder / "half.csv").write_text(f"{rows[0]}\n{rows[1].replace('as_is_r.png', '')}\n")
    records = load_manifest(folder / "half.csv").records
    data = config_of(p_flip_lr=1.0).data
    sample = SegmentDataset(records, ("left_lung", "right_lung"), data, seed=0, train=True)[0, 0]
    assert np.isnan(sample.target[0, 0]).all() and np.array_equal(sample.target[0, 1], LEFT[:, ::-1])


def test_labels_of_a_flipped_sample_are_those_of_the_mirrored_image(folder: Path) -> None:
    records = load_manifest(folder / "m.csv").records
    labels = class_labels(records, SIDES, ClassifyConfig())
    dataset = ClassDataset(labels, config_of(p_flip_lr=1.0).data, seed=0, train=True)
    assert labels.values.tolist() == [[1, 0], [0, 1]]
    assert [dataset[0, i].target.ravel().tolist() for i in range(2)] == [[0, 1], [1, 0]]
    cases: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [("mismatch", SIDES[:1], {"p_flip_lr": 0.1})]
    cases += [("conflict", SIDES, {"p_rot90": 0.1}), ("conflict", SIDES, {"scheme": "released"})]
    for kind, names, augment in cases:
        with refused(kind, naming="Left Lung"):
            ClassDataset(class_labels(records, names, ClassifyConfig()), config_of(**augment).data, seed=0, train=True)


def test_boxes_of_a_flipped_sample_are_those_of_the_mirrored_image(folder: Path) -> None:
    config = config_of("detect", p_flip_lr=1.0)
    labels = box_labels(load_manifest(folder / "m.csv").records, ("left_lung", "right_lung"), config)
    dataset = BoxDataset(labels, config.data, seed=0, train=True)
    plain = BoxDataset(labels, config.data, seed=0, train=False)
    for here, there in ((0, 1), (1, 0)):
        flipped, mirrored = dataset[0, here].boxes, plain[there].boxes
        assert flipped is not None and mirrored is not None
        np.testing.assert_allclose(sorted(flipped.tolist()), sorted(mirrored.tolist()), atol=1e-5)
    one = box_labels(load_manifest(folder / "m.csv").records, ("left_lung",), config)
    with refused("mismatch", naming="left_lung"):
        BoxDataset(one, config.data, seed=0, train=True)
    assert BoxDataset(one, config_of("detect").data, seed=0, train=True)[0, 0].boxes is not None
