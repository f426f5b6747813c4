"""Findings read off sentences labelled by hand, the vocabulary on real reports; sides, read and mirrored."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from medvl.data.reports import Finding, can_mirror, findings, mirror_text, names_side
from medvl.data.reports.terms import canonical_term, find_terms

LABELLED = [
    tuple(line.rsplit(" =", 1))
    for line in (Path(__file__).parent / "labelled_sentences.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def written(finding: Finding) -> str:
    """As in the labelled sentences: "-effusion@left:lower"."""
    side = f"@{finding.side}" if finding.side else ""
    zones = f":{'+'.join(sorted(finding.zones))}" if finding.zones else ""
    return f"{'-' if finding.negated else '+'}{finding.term}{side}{zones}"


@pytest.mark.parametrize(("sentence", "label"), LABELLED)
def test_labelled_sentences(sentence: str, label: str) -> None:
    text = sentence.replace("\\n", "\n")
    assert " ".join(map(written, findings(text))) == " ".join(label.split())


@pytest.mark.parametrize("shape", ["{}", "{}.", "  {}  ", "1. {}.", "FINDINGS: {}.", "Heart size is normal. {}."])
def test_what_stands_round_a_sentence_does_not_change_it(shape: str) -> None:
    text = "No left effusion, but right basal atelectasis"
    assert " ".join(map(written, findings(shape.format(text)))) == "-effusion@left +atelectasis@right:lower"


def test_case_does_not_matter() -> None:
    for sentence, label in LABELLED:
        if not {"L", "R", "LT", "RT", "PTX"} & set(sentence.replace(">", " ").split()):
            upper = " ".join(map(written, findings(sentence.replace("\\n", "\n").upper())))
            assert upper == " ".join(label.split()), sentence


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("small left pleural effusion", "effusion"), ("mass lesion", "mass"), ("catheter tip", "catheter"),
        ("compression fracture deformity", "fracture"), ("focus of consolidation", "consolidation"),
        ("mass like consolidation", "consolidation"), ("acute cardiopulmonary process", "cardiopulmonary process"),
        ("degenerative changes", "degenerative changes"), ("interval change", None), ("the findings above", None),
        ("osteochondroma", "osteochondroma"), ("hepatosplenomegaly", "hepatosplenomegaly"), ("the diagnosis", None),
        ("heart enlarged", "enlarged"), ("enlarged calcified nodule", "nodule"), ("small", None),
        ("mild pneumonitis", "pneumonitis"),  # by its ending
    ],
)  # fmt: skip
def test_the_head_of_a_finding_is_its_term(words: str, name: str | None) -> None:
    assert [term.name for term in find_terms(words.split())] == ([] if name is None else [name])


@pytest.mark.parametrize(
    "pair",
    [
        ("opacities", "opacity"), ("pneumothoraces", "pneumothorax"), ("ptx", "pneumothorax"), ("oedema", "edema"),
        ("masses", "mass"), ("granulomata", "granuloma"), ("osseous abnormalities", "osseous abnormality"),
        ("tumour", "tumor"),
    ],
)  # fmt: skip
def test_spellings_and_numbers_of_a_term_are_one(pair: tuple[str, str]) -> None:
    assert canonical_term(pair[0]) == canonical_term(pair[1])


# By hand, from a radiology textbook's list of chest findings and the general words of a report's last line.
KNOWN = set(
    "abnormality adenopathy atelectasis atherosclerosis blunting calcification cardiomegaly catheter clip "
    "congestion consolidation copd crowding deformity density disease edema effusion elevation emphysema "
    "enlargement fibrosis finding fluid fracture granuloma hernia hyperinflation infection infiltrate lucency "
    "mass nodule opacity osteophyte pacemaker pneumonia pneumothorax process prominence prominent scarring "
    "scoliosis spondylosis thickening tortuosity tortuous tube tuberculosis widening".split()
) | set(
    "airspace disease, bone abnormality, bony abnormality, bony finding, cardiopulmonary abnormality, "
    "cardiopulmonary disease, cardiopulmonary finding, cardiopulmonary process, degenerative change, "
    "granulomatous disease, interstitial markings, low lung volumes, lung disease, osseous abnormality, pulmonary "
    "disease".split(", ")
)


def test_nothing_is_read_from_another_language() -> None:
    for text in ("Sin atelectasis ni fibrosis en el pulmón derecho", "cambi pulmonar cronic sign fibrosis bibasal"):
        assert findings(text) == ()


@pytest.mark.shared
def test_the_most_frequent_terms_of_real_reports_are_findings(shared_data: Path) -> None:
    with (shared_data / "openi-reports" / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        terms = [one.term for row in list(csv.DictReader(stream))[::3] for one in findings(row["text"])]
    counts = Counter(canonical_term(term) for term in terms if term is not None)
    assert [term for term, _ in counts.most_common(50) if term not in KNOWN] == []
    assert counts["effusion"] > 800 and counts["pneumothorax"] > 700 and "acute" not in counts


OTHER = [("left", "right"), ("right", "left"), ("levo", "dextro"), ("dextro", "levo")]
OTHER += [("lt", "rt"), ("rt", "lt"), ("l", "r"), ("r", "l")]
MIRRORED = [  # each side in braces
    "{RT} LUNG OPACITY. {LT} LUNG CLEAR.", "{L} pleural effusion, {R} base atelectasis", "effusion ({L} > {R})",
    "effusions {L}>{R}", "{L}-sided chest tube", "Small effusion ({L})", "EFFUSION ON THE {RT}.",
    "SMALL EFFUSION ON {LT}.", "STATUS POST RT. {LEFT} LUNG CLEAR.", "Post RT changes in the {left} upper lobe",
    "Completed chemo-RT in May, {left} lung mass.", "Chemo and RT, {right} effusion", "L spine and {R} hip films",
    "1.5 L drained from the {right}", "r/o pneumonia, {left} base", "{RUL} opacity", "{rll} pneumonia",
    "{LLZ} opacity and {RMZ} nodule", "Clips in the {RUQ}.", "{right} heart border is obscured", "{left} hilum",
    "{left} hemidiaphragm is elevated", "left ventricular hypertrophy, {left} effusion", "{Levoscoliosis} of the spine",
    "mild {dextro} scoliotic curvature", "{dextrocardia}", "{RIJ} catheter tip in SVC", "{R} IJ line",
    "pt with c/o pain {r} lower ribs", "worse on {R} than {L}", "{L} greater than {R} effusions",
    "{R} and {L} pleural effusions", "({R}>{L})", "{Rt}. pleural effusion", "{Rt} lung, {Lt}. base",
    "{R}. lower lobe consolidation", "{left} lateral ventricle", "PAIN {RT} SCAPULAR AREA AND BELOW",
    "opacity {RT} lower zone", "Effusion: {RT} small, {LT} none", "{L} PICC line", "{Left} PICC, {R} chest tube",
    "{L} small to moderate pleural effusion", "{LEFT} LOWER LOBE, {RT} UPPER LOBE", "{L}&{R} effusions",
    "There is a small {L} pneumothorax.", "Chest tube [{R}] in place", "Effusions {R} > {L} with {L} basal atelectasis",
    "effusions, {R}&gt;{L}", "{LT} SIDED EFFUSION WITH {RT} BASE ATELECTASIS", "{LT}. LOWER LOBE PNEUMONIA",
    "New {RT} pleural effusion since the prior study", "{RT}-sided port, {LT}-sided effusion",
    "NO {RT} PNEUMOTHORAX. STATUS POST {LT} LOBECTOMY.", "{R} pneumothorax s/p {L} lobectomy",
    "Opacity at the {R} base, not on the {L}.", "Elevated {R} hemidiaphragm", "{R} upper lobe nodule, L1 fracture",
    "Calcified {L} hilar nodes", "{LUL}/{LLL} consolidation", "{LUZ} and {RUZ} opacities",
    "{left} cardiac border, {right} cardiophrenic angle", "{left} subclavian line with its tip in the right atrium",
    "{left} main bronchus", "{left} paratracheal stripe", "thoracic {dextroscoliosis} and lumbar {levoscoliosis}",
    "{levoconvex} curvature", "{LLE} swelling, {right} pleural effusion", "2 L drained. {L} effusion smaller.",
    "{R}: effusion. {L}: clear.", "right atrial enlargement with {right} effusion",
    "Left heart failure with a {left} effusion", "{Left}>{right} effusions", "Effusion, {left} > {right}",
    "{R} > {L} effusions", "{L}>>{R} effusion", "{L} < {R}", "Effusions ({R}>{L}).", "Opacities {L}/{R} bases",
    "Small ({R}) effusion", "small ({l}) effusion", "[{L}] base opacity", "{L}. effusion", "{L} pneumothorax.",
    "Pneumothorax on {L}", "{L} lower lobe collapse", "{L} LL collapse", "{L} hilar mass", "{R} hemidiaphragm elevated",
    "{R} CP angle blunted", "{R} costophrenic angle", "{R} heart border obscured", "{L} heart border",
    "{RT} HEART BORDER OBSCURED", "{RT}. PLEURAL EFFUSION. {LT}. LUNG CLEAR.", "SMALL PLEURAL EFFUSION {RT}",
    "EFFUSION {RT} > {LT}", "{RT}>{LT} EFFUSIONS", "{Rt}>{Lt} effusions", "{RT}-SIDED EFFUSION", "{Rt}-sided effusion",
    "Patient is undergoing RT for lung cancer, {right} effusion", "s/p RT, {left} lung fibrosis",
    "radiotherapy (RT) to the {left} breast", "RT changes in the {LUL}", "Prior RT. {Right} effusion.",
    "R/o pneumothorax {left}", "{LLZ} opacity", "{luz}", "{RMZ} nodule", "{RLL} > {LLL} opacity",
    "{RUL}, {LUL}, {RLL}, {LLL}", "{right} mid zone", "{right} middle zone", "{right} midlung", "{right} middle lung",
    "{levoscoliosis}", "{Levoconvex} scoliosis", "{dextroconvex} scoliosis", "{dextroposition} of the heart",
    "{right} hilum, {left} hilum", "{right} cardiophrenic angle mass", "{left} aortic arch",
    "{right}-sided aortic arch", "left ventricle and {right} lung", "{right} cardiac border",
    "{right} pulmonary artery", "{left} brachiocephalic vein", "{RIGHT} LUNG", "{R}.U.L. opacity",
    "{r}.l.l. consolidation", "{Rul} nodule", "{L} 5th rib fracture", "{R} 5th-7th ribs", "{L}.lower lobe",
    "{LSC} line in place", "{L} SCV catheter, {R} PPM", "{R} lat decubitus", "{left} lung", "{LEFT} LUNG",
    "{Left}-sided effusion, {left} sided", "{leftward} shift, {RIGHTWARDS}, {rightmost}", "{Left}-to-{right} shunt",
    "There is {left} basilar scarring.", "There are {left}-sided axillary clips.", "The stomach is {left}-sided.",
    "The aortic arch is {left}.", "pain on the {left} now resolved", "opacity to the {right} after drainage",
    "states having {left} rib pain", "status post {left} open reduction",
    "all {right} lung and all {left} and lower {right} lung", "the patient has {left} upper and {right} limb pain",
    "upper {right} arm", "{left} lung left untreated", "{left}_lung", "{rt} sided pain, {lt}.", "{RUL} and {LLL}",
]  # fmt: skip
NO_SIDE = [  # no word of these is a side: a flip leaves them as they are
    "The patient received RT to the mediastinum.", "L1 vertebra compression fracture", "Fracture of L1 and L2.",
    "L-spine degenerative changes", "2 L of oxygen", "R/O pneumonia", "tip in the right atrium",
    "Right ventricle and left atrium enlarged", "right and left atria", "right-sided heart failure",
    "levofloxacin given; dextrose", "B/L effusions", "right axis deviation", "300mg/l; normal",
    "lead tips in the right atrium and right ventricle", "right and left atrial enlargement", "left atrial appendage",
    "right ventricular hypertrophy", "left main coronary artery stent", "left bundle branch block",
    "Degenerative change at L4-L5.", "wedge fracture of L3", "disc space narrowing at L5/S1", "3 L nasal cannula",
    "fluid removed: 1,200 mL / 1.2 L", "after RT of the mediastinum", "RT-PCR positive", "prior RT, stable fibrosis",
    "palliative RT was given", "levothyroxine and levofloxacin", "bilateral effusions", "ER visit, E.R. film",
    "R atrial lead", "L ventricle enlarged", "LV lead, RV lead, RA lead", "RT atrium", "LT ventricular lead",
    "RT was completed in May", "after chemotherapy and RT", "s/p chemoRT", "RT planning CT", "RT-related fibrosis",
    "history of RT", "compression fracture of L1", "L1-L2 disc", "L3 vertebral body", "L-spine, T-spine",
    "R/O effusion", "500 mL vs 1 L", "2L NC", "3 L/min", "right and left ventricles", "right or left atrium",
    "right-sided heart chambers", "left cardiac chambers", "right coronary artery calcification",
    "left ventricular contour is prominent", "Bilateral", "left-handed", "turn right angle",
    "the film was left unread", "RT 50 Gy to the mediastinum", "radiation therapy (RT)",
]  # fmt: skip
NOT_CERTAIN = [  # no words are certain to be true of the flipped image
    "right middle lobe", "RML", "R.M.L. collapse", "Rml opacity", "middle lobe atelectasis", "Lingular opacity",
    "left middle lobe", "right heart", "Dr. R Smith", "opacity in the right middle lobe and left effusion",
    "RML and LLL pneumonia", "right middle and lower lobe opacities", "lingula scarring",
    "lower lobe and lingular opacities", "right-sided RT fibrosis", "posterior to the left heart",
    "consolidación en el pulmón izquierdo, left lung", "RT fibrosis", "Pneumothorax L", "L 1 vertebra",
    "middle-lobe consolidation", "RML/RLL consolidation", "lingula and left lower lobe",
    "left upper lobe lingular segment",
]  # fmt: skip


def other_side(match: re.Match[str]) -> str:
    """The word in braces with its other side, in the case of its letters."""
    word = match[1]
    old, new = next((a, b) for a, b in OTHER if word.lower().startswith(a))
    new = new.upper() if word[: len(old)].isupper() else new.capitalize() if word[0].isupper() else new
    return new + word[len(old) :]


@pytest.mark.parametrize("marked", MIRRORED)
def test_sides_are_swapped(marked: str) -> None:
    text, turned = re.sub("[{}]", "", marked), re.sub(r"\{(\w+)\}", other_side, marked)
    assert names_side(text) and can_mirror(text, left_right=True) and text != turned
    assert mirror_text(text, left_right=True) == turned and mirror_text(turned, left_right=True) == text


@pytest.mark.parametrize("text", NO_SIDE)
def test_what_looks_like_a_side_stays(text: str) -> None:
    assert not names_side(text) and can_mirror(text, left_right=True) and mirror_text(text, left_right=True) == text
    assert all(one.side in (None, "bilateral") for one in findings(text))


@pytest.mark.parametrize("text", NOT_CERTAIN)
def test_what_cannot_be_mirrored_for_certain_stays(text: str) -> None:
    assert not can_mirror(text, left_right=True) and mirror_text(text, left_right=True) == text


def test_one_sided_lobes_are_sides() -> None:
    for text, side in (("middle lobe", "right"), ("RML", "right"), ("lingular opacity", "left"), ("lingula", "left")):
        assert names_side(text) and {one.side for one in findings(text)} == {side}
    assert can_mirror("right middle lobe", up_down=True) and not can_mirror("lingula", up_down=True)
    assert mirror_text("RUQ clips", up_down=True) == "RLQ clips"


def test_misspelt_sides_come_back_spelt_right() -> None:
    for text, turned in (("righ lung", "left lung"), ("lefft lower lobe", "right lower lobe"), ("rigth", "left")):
        assert names_side(text) and mirror_text(text, left_right=True) == turned
    assert mirror_text("R.U.L. and Rll", up_down=True) == "R.L.L. and Rul"


def test_nothing_is_uncertain_without_a_flip() -> None:
    assert can_mirror("right middle lobe") and mirror_text("right middle lobe") == "right middle lobe"
