"""What `findings` reads off sentences that were labelled by hand; its vocabulary on real reports."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from medvl.data.reports import Finding, findings
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
