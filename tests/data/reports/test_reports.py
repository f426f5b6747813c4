"""What texts say about places: read, mirrored, denied; over a grammar, a word soup, and every real text there is."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.data.records import load_manifest
from medvl.data.reports import (
    Finding,
    Side,
    can_mirror,
    findings,
    is_english,
    mirror_text,
    names_height,
    names_side,
    negate_text,
)

FLIPS = ({"left_right": True}, {"up_down": True}, {"left_right": True, "up_down": True})
COUNTS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
ONE_WAY = re.compile(r"\b(?:basilar|bibasal)\b", re.IGNORECASE)  # an up-down flip gives them back as synonyms
SIDES: dict[Side | None, Side | None] = {"left": "right", "right": "left"}
HEIGHTS = {"upper": "lower", "lower": "upper"}


def mirrored(found: Iterable[Finding], left_right: bool = False, up_down: bool = False) -> tuple[Finding, ...]:
    """The findings of the flipped picture, by the definition."""
    sides = SIDES if left_right else {}
    heights = HEIGHTS if up_down else {}
    return tuple(
        replace(
            one,
            term=one.term and mirror_text(one.term, left_right=left_right),  # levoscoliosis
            side=sides.get(one.side, one.side),
            zones=frozenset(heights.get(z, z) for z in one.zones),
        )
        for one in found
    )


def check_mirror(text: str) -> bool:
    """Findings of the mirrored text are the mirrored findings; returns whether twice a flip gave the very text back."""
    found, same = findings(text), True
    for flip in FLIPS:
        turned = mirror_text(text, **flip)
        if not can_mirror(text, **flip):
            assert turned == text
            continue
        expected = mirrored(found, **flip)
        assert (found if turned == text else findings(turned)) == expected, (flip, text, turned)
        back = mirror_text(turned, **flip)
        if back != text:
            assert findings(back) == found, (flip, text, back)
            same = same and "up_down" in flip and ONE_WAY.search(text) is not None
    return same


@pytest.mark.parametrize(
    "text",
    [
        "if left untreated, chest pain comes back", "the drain was left in place", "a catheter was left in situ",
        "the patient left the hospital", "He left hospital on 3 May.", "who left early",
        "the message was left with the doctor", "The sponge was left behind.", "it was left alone", "All right.",
        "that is all right with us", "call right away", "right now there is none",
        "the line meets it at a right angle", "a right-handed woman", "SARS-CoV-2 by rt-PCR and RT-PCR",
        "heart size &lt; normal", "copyright of the ward", "Heart at the upper limit of normal.",
        "heart size upper limits normal", "the heart is top normal in size", "fracture of the upper limb",
        "the upper and lower limbs", "swelling of the lower extremities", "upper airways and upper respiratory tract",
        "lower than before", "lower lung volumes", "lower-grade tumour", "as above", "opacity as described above.",
        "nodule noted above.", "The above findings were discussed.", "see below", "a temperature above 38.5 degrees",
        "apical lordotic view", "cardiac apex and skull base", "fracture of the base of the fourth metacarpal",
        "baseline study, acid-base balance", "",
    ],
)  # fmt: skip
def test_no_places(text: str) -> None:
    assert not names_side(text) and not names_height(text)
    for flip in FLIPS:
        assert mirror_text(text, **flip) == text
    assert all(one.side is None and not one.zones for one in findings(text))


@pytest.mark.parametrize(
    ("text", "turned"),
    [
        ("Upper zone", "Lower zone"), ("UPPERMOST", "LOWERMOST"),
        ("superior segment, inferiorly", "inferior segment, superiorly"),
        ("from top to bottom", "from bottom to top"),
        ("the tube ends above the carina", "the tube ends below the carina"),
        ("a lucency seen above the diaphragm", "a lucency seen below the diaphragm"),
        ("above 5th rib", "below 5th rib"), ("Right base, left apex", "Right apex, left base"),
        ("both bases", "both apices"), ("biapical scars", "bibasilar scars"), ("apical cap", "basal cap"),
        ("upper lobe, lower limb", "lower lobe, lower limb"), ("RUL and LLL, RML", "RLL and LUL, RML"),
    ],
)  # fmt: skip
def test_up_and_down(text: str, turned: str) -> None:
    assert names_height(text)
    assert mirror_text(text, up_down=True) == turned and mirror_text(turned, up_down=True) == text


def test_one_way_spellings() -> None:
    """What does not come back as it was, and nothing else: misspelt places, and two synonyms of basal."""
    assert mirror_text("all leff lung", left_right=True) == "all right lung"
    assert mirror_text("all right lung", left_right=True) == "all left lung"
    assert mirror_text("upperlower rightlung", left_right=True, up_down=True) == "lower upper left lung"
    assert mirror_text("higher middle left lung", up_down=True) == "lower middle left lung"
    assert mirror_text("basilar", up_down=True) == "apical" and mirror_text("apical", up_down=True) == "basal"
    assert mirror_text("bibasal", up_down=True) == "biapical" and mirror_text("biapical", up_down=True) == "bibasilar"
    assert mirror_text("all leff lung") == "all leff lung"


def test_the_middle_and_both_sides_have_no_other_side() -> None:
    for text in ("middle zone", "both lungs", "bilateral opacities", "central mass"):
        assert all(mirror_text(text, **flip) == text for flip in FLIPS)
        assert not names_side(text) and not names_height(text)
    assert names_height("upper zone") and not names_side("upper zone")
    assert names_side("right lung") and not names_height("right lung")
    assert names_side("RML") and not names_height("RML")
    assert names_side("all leff lung") and names_height("lowerl zone")


def say(text: str) -> list[tuple[str | None, str]]:
    """(side, zones) of each finding."""
    return [(one.side, " ".join(sorted(one.zones))) for one in findings(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("opacity", [(None, "")]), ("upper zones", [(None, "upper")]), ("1. ", []), ("", []),
        ("right upper and left lower zones", [("right", "upper"), ("left", "lower")]),
        ("upper and middle zones of the right lung and lower zone of the left lung",
         [("right", "middle upper"), ("left", "lower")]),
        ("right and left upper zones", [("bilateral", "upper")]), ("both upper zones", [("bilateral", "upper")]),
        ("bibasilar opacities", [("bilateral", "lower")]),
        ("upper two thirds of the left lung", [("left", "middle upper")]),
        ("all left lung", [("left", "")]), ("right midlung nodule", [("right", "middle")]),
        ("RUL opacity, nodule in the LLL", [("right", "upper"), ("left", "lower")]),
        ("Left effusion. Right base opacity", [("left", ""), ("right", "lower")]), ("leftward shift", [("left", "")]),
        ("Bilateral pulmonary infection, one infected area, lower left lung.", [("left", "lower")]),
        ("Bilateral opacities, worse on the left", [("bilateral", "")]),
        ("Bibasilar opacities, right greater than left", [("bilateral", "lower")]),
        ("Bilateral opacities. Left effusion.", [("bilateral", ""), ("left", "")]),
        ("Bilateral pulmonary infection, two infected areas, upper left lung and upper right lung.",
         [("left", "upper"), ("right", "upper")]),
        ("Fracture of the upper limb, left untreated", [(None, "")]),
        ("The nuclei density is higher around.", [(None, "")]),
    ],
)  # fmt: skip
def test_places(text: str, expected: list[tuple[str | None, str]]) -> None:
    assert say(text) == expected


def test_terms_counts_denials() -> None:
    def one(text: str) -> tuple[str | None, int | None, bool]:
        (found,) = findings(text)
        return found.term, found.count, found.negated

    assert one("Left-sided effusion") == ("effusion", None, False)
    assert one("No effusion on the left") == ("effusion", None, True)
    assert one("The right lung is free of nodules") == ("nodules", None, True)
    assert one("three nodules in the left lung") == ("nodules", 3, False)
    assert one("oneinfected area, left lung") == (None, 1, False)
    assert one("2 Superiorly, a cyst") == ("cyst", None, False)
    assert one("upper two thirds of the left lung")[1] is None
    assert [f.negated for f in findings("Left effusion. No pneumothorax.")] == [False, True]


# --- a grammar --------------------------------------------------------------------------------------------------------

zone_sets = st.lists(st.sampled_from(["upper", "middle", "lower"]), min_size=1, max_size=3, unique=True)
one_side = st.sampled_from(["left", "right"])
terms = st.sampled_from(["opacity", "consolidation", "nodules", "effusion"])
Said = tuple[str, tuple[Finding, ...]]


@st.composite
def sentences(draw: st.DrawFn) -> Said:
    """A sentence, and what it says."""
    term, side, zones = draw(terms), draw(one_side), draw(zone_sets)
    other, others = str(SIDES[side]), draw(zone_sets)
    named, named_too = " and ".join(zones), " and ".join(others)
    places: list[tuple[Side | None, list[str]]]
    text, places = draw(
        st.sampled_from(
            [
                (f"{term} in the {side} {named} zones", [(side, zones)]),
                (f"{term} of the {named} zones of the {side} lung", [(side, zones)]), (f"{side} {term}", [(side, [])]),
                (f"there is {side} {named} {term}", [(side, zones)]),
                (f"{term} in the {side} {named} and {other} {named_too} zones", [(side, zones), (other, others)]),
                (f"{term} in the {named} {side} lung and {named_too} {other} lung", [(side, zones), (other, others)]),
                (f"bilateral {term}, {named} {side} lung", [(side, zones)]),
                (f"{term} in both {named} zones", [("bilateral", zones)]),
                (f"{term} in the {named} zones", [(None, zones)]), (f"{term}, unchanged", [(None, [])]),
            ]
        )
    )  # fmt: skip
    count = draw(st.sampled_from([None, *COUNTS]))
    denied = draw(st.booleans())
    text = text if count is None else f"{count} {text}"
    text = f"no {text}" if denied else text
    number = None if count is None else COUNTS[count]
    said = tuple(Finding(term, where, frozenset(zones), number, denied) for where, zones in places)
    text = draw(st.sampled_from([text, text.capitalize(), text.upper()]))
    return text, said


@settings(max_examples=120, deadline=None)
@given(parts=st.lists(sentences(), min_size=1, max_size=3), stop=st.sampled_from([". ", "; ", "\n"]))
def test_grammar(parts: list[Said], stop: str) -> None:
    text = stop.join(part for part, _ in parts)
    assert findings(text) == tuple(one for _, said in parts for one in said)
    assert check_mirror(text)
    assert names_side(text) == any(one.side in ("left", "right") for _, said in parts for one in said)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(sentences(), min_size=1, max_size=3))
def test_denial_is_of_every_finding(parts: list[Said]) -> None:
    text = ". ".join(part for part, _ in parts)
    expected = tuple(replace(one, negated=not one.negated) for _, said in parts for one in said)
    assert findings(negate_text(text)) == expected
    assert findings(negate_text(negate_text(text))) == findings(text)


SOUP = (
    "left right Left RIGHT left-sided rightward lt rt RT RUL RML LLL upper lower Upper superior inferior top bottom "
    "above below apex base apices basal apical biapical bibasilar lowermost sided lung lungs zones both bilateral all "
    "one two thirds middle no without and or the is was there if has patient it to on than of with as seen untreated "
    "unchanged in place behind over away now after angle handed limb arm vena cava normal limits lordotic lung volumes "
    "cardiac skull neck findings 38 5th higher lift midlung opacity"
).split()


@settings(max_examples=300, deadline=None)
@given(
    words=st.lists(
        st.tuples(st.sampled_from(SOUP), st.sampled_from([" ", " ", " ", ", ", ". ", "\n", "-", "/"])), max_size=9
    )
)
def test_word_soup(words: list[tuple[str, str]]) -> None:
    """No order of words is read one way and mirrored another."""
    text = "".join(word + space for word, space in words)
    assert check_mirror(text) or {"lift", "higher"} & {word for word, _ in words}


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=30) | st.text("leftrighuppw &;-.\n", max_size=30))
def test_any_text(text: str) -> None:
    check_mirror(text)
    negate_text(text)
    is_english(text)


def column(path: Path, *names: str) -> list[str]:
    """The distinct texts of some columns of a table."""
    with path.open(newline="", encoding="utf-8") as stream:
        return sorted({row[name] for row in csv.DictReader(stream) for name in names} - {""})


def test_shipped_phrases() -> None:
    texts = sorted({record.text for record in load_manifest("medvl:cxr_regions", check_files=False).records})
    assert len(texts) > 1000
    for text in texts:
        assert check_mirror(text) and is_english(text), text


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "columns", "num"),
    [
        ("btxrd-lvit", ["text_derived"], 300), ("monuseg-lvit", ["text"], 10),
        ("cxr-notes", ["text", "text_imaging"], 200), ("cxr-lesion", ["text", "text_derived"], 40),
        ("openi-reports", ["text", "indication"], 5000),
    ],
)  # fmt: skip
def test_real_texts(shared_data: Path, name: str, columns: list[str], num: int) -> None:
    texts = column(shared_data / name / "manifest.csv", *columns)
    assert len(texts) > num
    for text in texts:
        joined = re.search("midright|midlower", text)  # in two reports: come back as two words
        assert (check_mirror(text) or joined) and is_english(text), text


@pytest.mark.shared
def test_hardly_a_real_side_word_stays(shared_data: Path) -> None:
    """Of some 3,000 left and right in real reports, two are verbs and the others belong to the heart."""
    kept: list[str] = []
    num = uncertain = 0
    for name, columns in (("openi-reports", ("text", "indication")), ("cxr-notes", ("text",))):
        for text in column(shared_data / name / "manifest.csv", *columns):
            if not can_mirror(text, left_right=True):
                uncertain += 1
                continue
            words = re.findall(r"\w+", text.lower())
            turned = re.findall(r"\w+", mirror_text(text, left_right=True).lower())
            sides = [i for i, word in enumerate(words) if word in ("left", "right")]
            num += len(sides)
            kept += [" ".join(words[i : i + 3]) for i in sides if words[i] == turned[i]]
    heart = re.compile(
        r"(?:left|right) (?:sided )?(?:atri|ventric|heart|coronary|main coronary|and (?:left|right)|axis|cardiac)"
    )
    assert num > 2500 and uncertain < 150
    assert sorted(text for text in kept if not heart.match(text)) == ["left untreated chest", "left with doctor"]


CAPTION = re.compile(  # as the template has it, but for spaces and "lung"
    r"(?:Uni|Bi)lateral pulmonary infection ?, ?(one|two|three|four|five|six) +infected areas?, ?"
    r"((?:(?:upper|middle|lower|all) +)+)(left|right) lung"
    r"(?: and +((?:(?:upper|middle|lower|all) +)+)(left|right) lung)?\."
)


def check_caption(text: str) -> bool:
    """Compare a caption of the QaTa template with its findings; False if it is not of the template."""
    match = CAPTION.fullmatch(re.sub(r"(left|right)(?= and)", r"\1 lung", text.replace(" lung", "")[:-1] + " lung."))
    if match is None:
        return False
    expected: dict[str, set[str]] = {}
    for zones, side in ((match[2], match[3]), (match[4], match[5])):
        if side:
            expected.setdefault(side, set()).update(set(zones.split()) - {"all"})
    found = findings(text)
    assert {one.side: set(one.zones) for one in found} == expected and len(found) == len(expected), text
    assert all((one.count, one.negated) == (COUNTS[match[1]], False) for one in found), text
    return True


@settings(max_examples=60, deadline=None)
@given(
    head=st.sampled_from(["Unilateral", "Bilateral"]),
    count=st.sampled_from(sorted(COUNTS)),
    sides=st.lists(one_side, min_size=1, max_size=2, unique=True),
    zones=st.tuples(zone_sets | st.just(["all"]), zone_sets | st.just(["all"])),
)
def test_caption_template(head: str, count: str, sides: list[str], zones: tuple[list[str], list[str]]) -> None:
    places = " and ".join(f"{' '.join(zone)} {side} lung" for side, zone in zip(sides, zones, strict=False))
    text = f"{head} pulmonary infection, {count} infected areas, {places}."
    assert check_caption(text)
    assert check_mirror(text)


@pytest.mark.shared
def test_qata_captions(shared_data: Path) -> None:
    texts = column(shared_data / "qata-texts" / "captions.csv", "Description")
    assert len(texts) == 383
    assert sum(check_caption(text) for text in texts) > 270
    for text in texts:
        assert names_side(text) and is_english(text), text
    # The misspelt ones come back spelt right: "leff" as "left".
    spelt = "Bilateral Unilateral pulmonary infection infected area areas all upper middle lower left right lung and"
    words = {*spelt.split(), *COUNTS}
    right = [text for text in texts if set(re.findall(r"[A-Za-z]+", text)) <= words]
    same = [text for text in texts if check_mirror(text)]
    assert len(right) > 300 and set(right) <= set(same)
    (leff,) = (text for text in texts if "all leff" in text)
    assert mirror_text(mirror_text(leff, left_right=True), left_right=True) == leff.replace("leff", "left")


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        ("Left effusion.", "No evidence of left effusion."), ("COVID pneumonia", "No evidence of COVID pneumonia"),
        ("A nodule", "No evidence of a nodule"), ("No evidence of effusion", "Effusion"),
        ("no pneumothorax", "Pneumothorax"), ("There is no fracture.", "Fracture."),
        ("Nodular opacity", "No evidence of nodular opacity"),
        ("1. Effusion. No nodule.", "1. No evidence of effusion. Nodule."), ("  ", "  "), ("", ""),
    ],
)  # fmt: skip
def test_negate(text: str, denied: str) -> None:
    assert negate_text(text) == denied


@pytest.mark.parametrize(
    "text",
    [
        "", "38.5", "Right upper lobe consolidation", "Cardiomegaly", "Röntgen: no effusion", "RUL mass",
        "Sinister finding in the left lung", "Cor pulmonale. Mild edema.",
        "No effusion; transferred from Los Angeles", "The mediastinum is unremarkable",
        "Right paratracheal stripe; no mediastinal shift", "Le Fort and no", "ET tube, NG tube",
        "Old rib fractures, elongated aorta", "Sole abnormality: left base",
    ],
)  # fmt: skip
def test_english(text: str) -> None:
    assert is_english(text)


@pytest.mark.parametrize(
    "text",
    [
        "Infiltrat im rechten Oberlappen", "Pneumothorax rechts", "Pleuraerguss links", "opacité du poumon gauche",
        "consolidation du lobe inférieur droit", "Consolidación en el pulmón izquierdo", "derrame pleural derecho",
        "addensamento del polmone destro", "pneumonia lobar no pulmão esquerdo", "правое лёгкое", "右肺上叶",
        "derram pleural izquierd", "engros apical derech", "cambi pulmonar cronic sever", "no derram pleural",
        "sin hallazg patolog", "infiltr izq bas", "hemitorax dcho", "base izda", "rechtsseitiger Erguss",
        "Verschattung linksbasal", "Herz normal groß", "épanchement pleural", "opacité basale gauche", "linker long",
        "wysięk lewostronny", "prawe płuco", "venstre lunge", "höger lunga", "sağ akciğerde opasite",
        "aument densid difus", "escoliosis dorsolumb", "no visualiz signific", "sin cambios en el estudio previo",
        "Opacidad en língula", "Pas de pneumothorax.", "silhouette cardiaque normale", "Hemotórax D",
        "efusi pleura kanan",
        "left lung; right lung; upper zone of the left lung; linke Lunge",  # one foreign phrase is enough
    ],
)  # fmt: skip
def test_not_english(text: str) -> None:
    assert not is_english(text)
