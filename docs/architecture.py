"""Draw docs/architecture.svg from the code, and fill in what docs/architecture.md shows of it.

    python docs/architecture.py

Layers are those that import-linter holds (pyproject.toml), arrows are imports, counted by grimp.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parent
SOURCE = DOCS.parent / "src" / "medvl"
PAGE, PICTURE, EXAMPLES = DOCS / "architecture.md", DOCS / "architecture.svg", DOCS / "examples"
OBJECTS = {
    "Task": "core/task.py",
    "EvaluationRecord": "evaluation/record.py",
    "EvaluationKind": "evaluation/kind.py",
    "SegmentationNetwork": "models/base.py",
}
BLOCK = re.compile(r"(<!-- (\w+): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Write the picture and the page."""
    draw(layers(), imports(), PICTURE)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def layers() -> list[list[str]]:
    """The packages of each layer, the highest first."""
    settings = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [re.findall(r"\w+", row) for row in rows]


def imports() -> Counter[tuple[str, str]]:
    """(package, package) -> how many times a module of the first imports one of the second."""
    import grimp

    graph = grimp.build_graph("medvl", exclude_type_checking_imports=True, cache_dir=None)
    counts: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            first, second = (f"{name}..".split(".")[1] for name in (module, other))
            if first and second and first != second and first != "__main__":
                counts[first, second] += 1
    return counts


def draw(rows: Sequence[Sequence[str]], counts: Counter[tuple[str, str]], path: Path) -> None:
    """Packages from the upper left to the lower right; an arrow leaves its package to the right and ends below."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "medvl", "svg.fonttype": "none", "font.family": "sans-serif"})
    import matplotlib.pyplot as plt

    order = [name for row in rows for name in row]
    place = {name: i for i, name in enumerate(order)}
    figure, axes = plt.subplots(figsize=(13, 8))
    start = 0
    for number, row in enumerate(rows):
        colour = "#f2f5f8" if number % 2 else "#ffffff"
        axes.axhspan(start - 0.5, start + len(row) - 0.5, color=colour, zorder=0)
        start += len(row)
    for (first, second), count in sorted(counts.items()):
        x, y = place[second], place[first]
        colour = "#7a8a99" if x > y else "#c0392b"  # red: upwards
        axes.plot([y, x, x], [y, y, place[second]], color=colour, linewidth=0.5, alpha=0.5, zorder=1)
        axes.text(
            x, y, str(count), ha="center", va="center", fontsize=8, color=colour if x < y else "#1c3d5a", zorder=3,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": colour, "linewidth": 0.5},
        )  # fmt: skip
    for name, i in place.items():
        if any(second == name and place[first] < i for first, second in counts):
            axes.annotate(
                "", (i, i - 0.27), (i, i - 0.5), arrowprops={"arrowstyle": "-|>", "color": "#7a8a99"}, zorder=2
            )
        axes.text(
            i, i, name, ha="center", va="center", fontsize=9, fontweight="bold", color="white", zorder=4,
            bbox={"boxstyle": "round,pad=0.35", "facecolor": "#1c3d5a", "edgecolor": "none"},
        )  # fmt: skip
    axes.set(xlim=(-0.8, len(order) - 0.2), ylim=(len(order) - 0.4, -0.6))
    axes.axis("off")
    figure.savefig(path, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)


def filled(page: str) -> str:
    """The page with the text between its markers anew."""
    makers = {"layers": layer_table, "object": object_table, "example": example_text}
    return BLOCK.sub(lambda block: f"{block[1]}{makers[block[2]](block[3])}\n{block[4]}", page)


def layer_table(_: str) -> str:
    """The layers with what each package is for, by its docstring."""
    lines = ["| layer | package | |", "| ---: | --- | --- |"]
    for number, row in enumerate(layers(), 1):
        for name in row:
            module = ast.parse((SOURCE / name / "__init__.py").read_text(encoding="utf-8"))
            about = (ast.get_docstring(module) or "").splitlines()[0]
            lines.append(f"| {number} | `{name}` | {about} |")
    return "\n".join(lines)


def object_table(name: str) -> str:
    """The public fields and methods of a class, with what its code says of each."""
    text = (SOURCE / OBJECTS[name]).read_text(encoding="utf-8")
    lines = [f"| `{name}` ({OBJECTS[name]}) | |", "| --- | --- |"]
    lines += [f"| `{member}` | {about} |" for member, about in members(text, name)]
    return "\n".join(lines)


def members(text: str, name: str) -> Iterator[tuple[str, str]]:
    """(name, comment or first line of the docstring) of each public member of a class in a source text."""
    source = text.splitlines()
    tree = ast.parse(text)
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            line, above = source[node.end_lineno - 1], source[node.lineno - 2].strip()  # type: ignore[operator]
            _, mark, comment = line.partition("  # ")
            about = comment if mark else above.removeprefix("# ") if above.startswith("# ") else ""
            yield node.target.id, about.replace("|", "\\|")
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            about = (ast.get_docstring(node) or "").split("\n")[0]
            yield f"{node.name}()", about.replace("|", "\\|")


def example_text(names: str) -> str:
    """The files of an example, whole."""
    parts = []
    for name in names.split(","):
        kind = {"py": "python"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
        parts.append(f"```{kind}\n{(EXAMPLES / name).read_text(encoding='utf-8')}```")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
