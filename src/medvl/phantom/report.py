"""The report of a phantom: a few sentences that are true of its picture, in many wordings.

Sides are the patient's. A lesion of one kind stands once on a side, so a sentence can be checked against the masks.
Nothing here is a radiologist's: the sentences are made from the facts of the drawing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

Kind = Literal["consolidation", "nodule", "effusion", "pneumothorax", "cardiomegaly"]
Side = Literal["left", "right"]
Size = Literal["small", "moderate", "large"]
Device = Literal["leads", "catheter"]
KINDS: tuple[Kind, ...] = ("consolidation", "nodule", "effusion", "pneumothorax", "cardiomegaly")
ZONES = ("upper", "middle", "lower")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fact:
    """What a report may say of one lesion. `zones`: the thirds of the lung that hold it; none for the heart."""

    kind: Kind
    side: Side | None  # None: the heart
    zones: tuple[str, ...]
    size: Size

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.side, "+".join(self.zones), self.size)))


_NOUNS: dict[Kind, tuple[str, ...]] = {
    "consolidation": ("consolidation", "airspace opacity", "airspace disease", "opacity", "opacification"),
    "nodule": ("nodule", "pulmonary nodule", "rounded nodule", "coin lesion", "round lesion"),
    "effusion": ("pleural effusion", "effusion", "pleural fluid collection"),
    "pneumothorax": ("pneumothorax",),
    "cardiomegaly": ("cardiomegaly",),
}
_SIZES: dict[Kind, dict[Size, tuple[str, ...]]] = {
    "consolidation": {
        "small": ("a small area of", "limited", "a small focus of"),
        "moderate": ("patchy", "moderate", "an area of", ""),
        "large": ("extensive", "a large area of", "widespread"),
    },
    "nodule": {"small": ("a small", "a tiny"), "moderate": ("a", "a medium-sized"), "large": ("a large", "a sizeable")},
    "effusion": {
        "small": ("a small", "a minor", "a trace"),
        "moderate": ("a moderate", "a", "a moderately sized"),
        "large": ("a large", "a sizeable"),
    },
    "pneumothorax": {"small": ("a small", "a thin"), "moderate": ("a", "a moderate"), "large": ("a large",)},
    "cardiomegaly": {"small": ("mild",), "moderate": ("moderate", ""), "large": ("marked", "severe")},
}
_DENIALS: dict[Kind, tuple[str, ...]] = {
    "consolidation": (
        "No focal consolidation.",
        "There is no airspace disease.",
        "No focal airspace opacity.",
        "No evidence of consolidation.",
    ),
    "nodule": ("No pulmonary nodule.", "No suspicious nodule is seen.", "There is no nodule or mass."),
    "effusion": (
        "No pleural effusion.",
        "There is no effusion.",
        "The costophrenic angles are sharp.",
        "No evidence of pleural fluid.",
    ),
    "pneumothorax": ("No pneumothorax.", "There is no evidence of pneumothorax.", "No pneumothorax is identified."),
    "cardiomegaly": (
        "Heart size is normal.",
        "The cardiac silhouette is normal in size.",
        "No cardiomegaly.",
        "The heart is not enlarged.",
    ),
}
_CLEAR = ("The lungs are clear.", "Both lungs are clear.", "Clear lungs.", "The lungs are well aerated and clear.")
_NORMAL = (
    "No acute cardiopulmonary abnormality.",
    "Normal chest radiograph.",
    "No acute disease.",
    "No acute cardiopulmonary process.",
    "Unremarkable chest.",
)
_DEVICES: dict[Device, tuple[str, ...]] = {
    "leads": (
        "Overlying monitoring leads.",
        "External leads project over the chest.",
        "Monitoring electrodes are noted.",
    ),
    "catheter": ("A central venous catheter is in place.", "Central venous line noted."),
}
_OTHER = (
    "The bony thorax is intact.",
    "No acute osseous abnormality.",
    "The trachea is midline.",
    "Image quality is adequate.",
    "The visualised abdomen is unremarkable.",
    "Hilar contours are unremarkable.",
    "Degenerative changes of the spine cannot be assessed on this view.",
    "Follow-up as clinically indicated.",
)
_TECHNIQUE = (
    "Technique: single frontal view of the chest.",
    "Technique: frontal chest radiograph.",
    "Single frontal projection was obtained.",
    "Exam: chest, one view.",
)
_INDICATION = (
    "Indication: cough.",
    "Indication: shortness of breath.",
    "History: fever.",
    "Indication: routine check.",
)
_FIRST = ("Comparison: none.", "No prior studies are available for comparison.")


def report(facts: Sequence[Fact], rng: np.random.Generator, *, device: Device | None, first: bool) -> str:
    """Several sentences in random order, or under FINDINGS and IMPRESSION.

    Args:
        facts: at most one of a kind on a side.
        device: what lies on the patient in the picture. It is mentioned now and then and never with a side.
        first: the patient's first picture: "Comparison: none." would be true.
    """
    body = _positive(facts, rng) + _negative(facts, rng)
    extra = [_choose(rng, _OTHER)] if rng.random() < 0.5 else []
    if device is not None and rng.random() < 0.25:
        extra.append(_choose(rng, _DEVICES[device]))
    head = [_choose(rng, pool) for pool, p in ((_TECHNIQUE, 0.35), (_INDICATION, 0.25)) if rng.random() < p]
    if first and rng.random() < 0.35:
        head.append(_choose(rng, _FIRST))
    style = rng.random()
    if style < 0.5:
        return " ".join(_shuffled(rng, [*body, *extra, *head]))
    impression = _positive(facts, rng, short=True) if facts else [_choose(rng, _NORMAL)]
    impression = _shuffled(rng, impression)
    if len(impression) > 1 and rng.random() < 0.5:
        impression = [f"{number}. {sentence}" for number, sentence in enumerate(impression, start=1)]
    last = f"IMPRESSION: {' '.join(impression)}"
    if style > 0.92:
        return " ".join([*_shuffled(rng, head), last])
    findings = f"FINDINGS: {' '.join(_shuffled(rng, [*body, *extra]))}"
    parts = [last, findings] if rng.random() < 0.15 else [findings, last]
    return " ".join([*_shuffled(rng, head), *parts])


def _positive(facts: Sequence[Fact], rng: np.random.Generator, *, short: bool = False) -> list[str]:
    """One sentence for each lesion; two of one kind may share a sentence."""
    sentences = []
    for kind in KINDS:
        same = _shuffled(rng, [fact for fact in facts if fact.kind == kind])
        if len(same) == 2 and same[0].zones == same[1].zones and same[0].size == same[1].size and rng.random() < 0.8:
            sentences.append(_both_sides(same[0], rng))
        elif len(same) == 2 and kind in ("consolidation", "nodule") and rng.random() < 0.4:
            places = " and ".join(_zone_phrase(fact, rng) for fact in same)
            sentences.append(_sentence(f"{_choose(rng, _NOUNS[kind])}{'s' * (kind == 'nodule')} in the {places}."))
        else:
            sentences += [_one(fact, rng, short) for fact in same]
    return sentences


def _one(fact: Fact, rng: np.random.Generator, short: bool) -> str:
    noun, size = _choose(rng, _NOUNS[fact.kind]), _choose(rng, _SIZES[fact.kind][fact.size])
    if fact.kind == "cardiomegaly":
        adverb = f"{size}ly " if size else ""
        choices = [f"{size} cardiomegaly.", f"The heart is {adverb}enlarged.", f"{adverb}enlarged cardiac silhouette."]
        if not short:
            choices.append(f"The cardiac silhouette is {adverb}enlarged.")
        return _sentence(_choose(rng, choices).strip())
    side = fact.side
    bare = size.removeprefix("a ")
    bare = "" if bare == "a" else bare
    if fact.kind in ("consolidation", "nodule"):
        place = _place(fact, rng)
        choices = [f"{size} {noun} in {place}.", f"{_zone_phrase(fact, rng).removesuffix('s')} {noun}."]
        if not short:
            choices += [f"There is {size} {noun} in {place}.", f"{size} {noun} is seen in {place}."]
            if fact.kind == "consolidation" and len(fact.zones) == 1:
                choices.append(f"{place} shows {size} {noun}.")
    elif fact.kind == "effusion":
        choices = [f"{bare} {side} {noun}.", f"{side}-sided {noun}, {fact.size} in size."]
        if not short:
            choices += [f"There is {size} {side} {noun}.", f"{size} {noun} is present on the {side}."]
            if fact.zones == ("lower",):
                choices.append(f"{size} {noun} layers at the {side} lung base.")
            if fact.size == "small":
                choices.append(f"Blunting of the {side} costophrenic angle, in keeping with {size} {noun}.")
    else:
        choices = [f"{bare} {side} {noun}.", f"{bare} {side} apical {noun}."]
        if not short:
            choices += [f"There is {size} {side}-sided {noun}.", f"There is {size} {noun} at the {side} apex."]
            choices.append(f"A pleural line at the {side} apex is in keeping with {size} {noun}.")
        if fact.zones != ("upper",):  # it reaches down the side: the apex would be half of the truth
            choices = [text for text in choices if "apical" not in text and "apex" not in text]
    return _sentence(_choose(rng, choices))


def _both_sides(fact: Fact, rng: np.random.Generator) -> str:
    if fact.kind == "effusion":
        choices = ["Bilateral pleural effusions.", f"There are {fact.size} bilateral pleural effusions."]
        choices.append(f"{fact.size} effusions on both sides.")
    else:
        noun = _choose(rng, _NOUNS[fact.kind]) + "s" * (fact.kind == "nodule")
        zones = " and ".join(fact.zones)
        choices = [f"Bilateral {zones} zone {noun}.", f"{noun} in both {zones} zones."]
        choices.append(f"There {'are' if fact.kind == 'nodule' else 'is'} {noun} in the {zones} zones of both lungs.")
    return _sentence(_choose(rng, choices))


def _place(fact: Fact, rng: np.random.Generator) -> str:
    """ "the upper third of the right lung" """
    side, zones = fact.side, " and ".join(fact.zones)
    if len(fact.zones) == 1:
        mid = "mid" if zones == "middle" and rng.random() < 0.5 else zones
        choices = [f"the {side} {mid} zone", f"the {mid} zone of the {side} lung", f"the {side} {mid} lung"]
        choices += [f"the {zones} third of the {side} lung", f"the {side} {mid} lung field", f"the {zones} {side} lung"]
        return _choose(rng, choices)
    choices = [f"the {side} {zones} zones", f"the {zones} zones of the {side} lung"]
    choices.append(f"the {zones} thirds of the {side} lung")
    end = next(zone for zone in fact.zones if zone != "middle")
    choices.append(f"the {end} two thirds of the {side} lung")
    return _choose(rng, choices)


def _zone_phrase(fact: Fact, rng: np.random.Generator) -> str:
    """ "right upper zone" """
    zones = " and ".join(fact.zones)
    if zones == "middle" and rng.random() < 0.5:
        zones = "mid"
    return f"{fact.side} {zones} zone{'s' * (len(fact.zones) > 1)}"


def _negative(facts: Sequence[Fact], rng: np.random.Generator) -> list[str]:
    """Denials of what is absent: of kinds, of the other side, or of anything in the lungs."""
    absent = [kind for kind in KINDS if all(fact.kind != kind for fact in facts)]
    denied = [kind for kind in absent if rng.random() < 0.55]
    sentences = []
    if {"effusion", "pneumothorax"} <= set(denied) and rng.random() < 0.5:
        denied = [kind for kind in denied if kind not in ("effusion", "pneumothorax")]
        choices = ("No pleural effusion or pneumothorax.", "No pneumothorax or pleural effusion is seen.")
        sentences.append(_choose(rng, choices))
    sentences += [_choose(rng, _DENIALS[kind]) for kind in denied]
    sides = {fact.side for fact in facts if fact.side is not None}
    if not sides and rng.random() < 0.6:
        sentences.append(_choose(rng, _CLEAR))
    if len(sides) == 1:
        other = "left" if "right" in sides else "right"
        if rng.random() < 0.25:
            sentences.append(_choose(rng, (f"The {other} lung is clear.", f"Clear {other} lung.")))
        if any(fact.kind == "effusion" for fact in facts) and rng.random() < 0.25:
            choices = (f"No {other}-sided effusion.", f"The {other} costophrenic angle is sharp.")
            sentences.append(_choose(rng, choices))
    return sentences if sentences or facts else [_choose(rng, _CLEAR)]


def _sentence(text: str) -> str:
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", " ".join(text.split()))
    return text[:1].upper() + text[1:]


def _choose(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _shuffled(rng: np.random.Generator, items: Sequence[T]) -> list[T]:
    return [items[i] for i in rng.permutation(len(items))]
