"""Prompt families: pairs, templates, ensembles, and what is wrong with a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faults import refused

from medvl.text.prompts import PromptPair, class_words, load_prompts


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_the_shipped_families() -> None:
    first = load_prompts()
    assert first.name == "chexzero"
    assert first.prompts(["Pleural_Thickening"]) == {
        "Pleural_Thickening": PromptPair(("pleural thickening",), ("no pleural thickening",))
    }
    sentence = load_prompts(family="sentence").prompts(["Edema"])["Edema"]
    assert sentence == PromptPair(("There is edema.",), ("There is no edema.",))


def test_pairs_stand_before_templates_whatever_their_case(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'templates: {positive: ["{}", "findings of {}"], negative: "no {}"}\n'
        'pairs: {no finding: {positive: ["clear lungs"], negative: ["opacity", "effusion"]}}\n',
    )
    family = load_prompts(path)
    assert family.name == "mine"
    found = family.prompts(["No Finding", "Mass"])
    assert found["No Finding"] == PromptPair(("clear lungs",), ("opacity", "effusion"))
    assert family.has_pair("NO_finding") and not family.has_pair("Mass")
    assert found["Mass"] == PromptPair(("mass", "findings of mass"), ("no mass",))
    assert class_words("  Lung__Opacity ") == "lung opacity"


def test_a_denial_is_not_put_into_templates() -> None:
    for name in ("No Finding", "normal"):
        with refused("malformed"):
            load_prompts().prompts([name])


def test_pairs_alone_know_only_their_classes(tmp_path: Path) -> None:
    path = write(tmp_path, 'pairs: {pneumonia: {positive: ["pneumonia"], negative: ["no pneumonia"]}}')
    with refused("unknown", naming="pneumonias"):
        load_prompts(path).prompts(["pneumonias"])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"), ("[1]", "empty"), ("templates: {positive: [x", "damaged"), ("families: {}", "empty"),
        ("families: {a: {}}", "empty"), ("template: {positive: ['{}'], negative: ['no {}']}", "unknown_key"),
        ("templates: {positive: ['{}'], negative: ['absent']}", "malformed"),
        ("templates: {positive: ['{}']}", "malformed"), ("pairs: {a: {positive: [], negative: [b]}}", "malformed"),
        ("pairs: {a: {positive: [a], negative: [no]}}", "malformed"),
        ("pairs: {a b: {positive: [a], negative: [b]}, A_B: {positive: [a], negative: [b]}}", "duplicate"),
        ("pairs: {a: b}", "malformed"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, kind: str) -> None:
    with refused(kind):
        load_prompts(write(tmp_path, text))


def test_no_such_file_or_family(tmp_path: Path) -> None:
    with refused("missing_file"):
        load_prompts(tmp_path / "absent.yaml")
    with refused("unknown", naming="chexzeros"):
        load_prompts(family="chexzeros")


def test_the_prompts_of_the_page_on_classification_are_read(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "classification.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "prompts.yaml").write_text(text)
    assert load_prompts(tmp_path / "prompts.yaml").name == "short"
    found = load_prompts(tmp_path / "prompts.yaml", "ensemble").prompts(["Effusion", "Pleural_Thickening", "normal"])
    assert found["Effusion"].positive == ("pleural effusion", "fluid in the pleural space")
    assert found["Pleural_Thickening"].negative[2] == "the lungs are clear of pleural thickening"
