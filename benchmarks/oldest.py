"""The requirements of pyproject.toml, each at its lower bound, for `make test-oldest`.

torch is left out: constraints.txt names the build that is tested.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def oldest(project: dict[str, list[str]]) -> list[str]:
    """`name>=1.2` -> `name==1.2`. ValueError for a requirement without a lower bound."""
    lines = []
    for requirement in project["dependencies"]:
        match = re.fullmatch(r"([A-Za-z0-9_-]+)>=([0-9.]+)", requirement)
        if match is None:
            raise ValueError(f"{requirement}: expected NAME>=VERSION")
        lines.append("torch" if match[1] == "torch" else f"{match[1]}=={match[2]}")
    return lines


if __name__ == "__main__":
    with (ROOT / "pyproject.toml").open("rb") as file:
        sys.stdout.write("\n".join(oldest(tomllib.load(file)["project"])) + "\n")
