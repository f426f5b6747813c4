"""How alike two texts are by the findings that they name: denials have a scope, spellings do not matter."""

from __future__ import annotations

import pytest

from medvl.tasks.segment.lv_bank import atoms, findings_similarity, sides


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("Right effusion without pneumothorax.", "Right effusion.", "Left effusion."),
        ("Right effusion without pneumothorax.", "Right effusion.", "No right effusion."),
        (
            "There is opacity in the right lower zone, no effusion.",
            "Right lower zone opacity.",
            "Left lower zone opacity.",
        ),
        ("No change in right effusion.", "Right effusion.", "No right effusion."),
        ("Left lung is clear, right upper zone opacity.", "Right upper zone opacity.", "Left upper zone opacity."),
        ("RT LUNG OPACITY.", "Right lung opacity.", "Left lung opacity."),
        ("L pleural effusion", "Left pleural effusion", "Right pleural effusion"),
        ("Effusions, L > R", "Bilateral effusions", "Left effusion"),
    ],
)
def test_nearer(text: str, near: str, far: str) -> None:
    similarity = findings_similarity([text], [near, far])[0]
    assert similarity[0] > similarity[1]


def test_sides_and_spellings() -> None:
    assert sides("Right effusion without pneumothorax") == {("right", False)}
    assert sides("Pneumothorax is not seen on the left, but small on the right") == {("left", True), ("right", False)}
    assert findings_similarity(["Pleural effusions. Oedema."], ["effusion, edema"])[0, 0] == 1
    denied = {("term", name, True) for name in ("effusion", "pneumothorax", "consolidation")}
    assert atoms("No effusion, pneumothorax, or consolidation") == denied


def test_findings_similarity() -> None:
    same = findings_similarity(["Opacity in the right upper zone."], ["Right upper zone opacity.", "Left upper zone."])
    assert same[0, 0] == 1 and same[0, 1] == 0
    both = atoms("bilateral upper zones")
    assert both == {("left", "upper", False), ("right", "upper", False)}
    assert findings_similarity(["both lungs"], ["left lung"])[0, 0] == pytest.approx(0.5)
    assert findings_similarity([""], ["left lung"])[0, 0] == 0


def test_sides_count_before_zones() -> None:
    queries = ["Opacity in the middle left lung."]
    others = ["Opacity in the upper and middle left and the middle right lung.", "Opacity in the lower left lung."]
    similarity = findings_similarity(queries, others)[0]
    assert len(atoms(queries[0]) & atoms(others[0])) > len(atoms(queries[0]) & atoms(others[1]))
    assert similarity[1] > similarity[0]
    # What is denied is another atom; without a side only the term is shared.
    denied = findings_similarity(queries, ["No opacity in the left lung.", "Opacity."]).tolist()[0]
    assert denied == pytest.approx([0, 1 / 26], abs=1e-6)
    assert findings_similarity(["Opacity."], ["Effusion.", "Opacity."]).tolist() == [[0, 1]]
