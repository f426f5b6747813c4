"""What SECURITY.md says of files that others made: nothing in them runs, and XML does not grow without measure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import refused

import medvl
from medvl.data.importers.openi import import_openi

# What a call must say, by the end of its name.
SAFE = {
    "torch.load": "weights_only=True",
    "np.load": "allow_pickle=False",
    "np.lib.format.read_array": "allow_pickle=False",
    "from_pretrained": "trust_remote_code=False",
    "yaml.load": "_Loader",
}
REFUSED = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.unsafe_load", "os.system", "extractall"}
LAST = {name.rpartition(".")[2] for name in {*SAFE, *REFUSED}}


def calls() -> Iterator[tuple[str, str, str]]:
    """(place, name, whole text) of the calls in medvl whose name ends as one of those above."""
    for path in sorted(Path(medvl.__file__).parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if not any(name in text for name in LAST):  # most files; to parse them all takes seconds
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                last = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                if last in LAST:
                    yield f"{path.name}:{node.lineno}", ast.unparse(node.func), ast.unparse(node)


def test_nothing_in_a_file_runs() -> None:
    num_checked = 0
    for place, name, text in calls():
        last = name.rpartition(".")[2]
        assert name not in REFUSED and last != "extractall", place
        if (rule := SAFE.get(name, SAFE.get(last))) is not None:
            assert rule in text, f"{place}: {text} without {rule}"
            num_checked += 1
    assert num_checked >= 9


@pytest.mark.parametrize("kind", ["growing", "external"])
def test_entities_of_xml_are_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    entities = f'<!ENTITY k SYSTEM "{(tmp_path / "secret.txt").as_uri()}">'
    if kind == "growing":
        entities = '<!ENTITY a "aaaaaaaaaa">'
        entities += "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghij", "bcdefghijk", strict=True))
    texts, images = tmp_path / "ecgen-radiology", tmp_path / "NLMCXR_png"
    texts.mkdir()
    images.mkdir()
    report = '<eCitation><uId id="CXR1"/><AbstractText Label="FINDINGS">&k;</AbstractText></eCitation>'
    (texts / "1.xml").write_text(f'<?xml version="1.0"?><!DOCTYPE eCitation [{entities}]>{report}')
    with refused("damaged"):
        import_openi(tmp_path, tmp_path / "manifest.csv")
