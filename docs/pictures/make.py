"""Draw the pictures of README and docs: `python docs/pictures/make.py [NAME ...]`, all of them without a name.

NAME is a file beside this one with a function `draw` (see NAMES). `shipped` stands for those that show the shipped
model, which `make results` draws anew. The same code and the same versions give the same bytes. epi and pseudo_mask
train a small model first (two or three minutes each on two cores) and keep it in runs/pictures/; delete it to train
again.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import style

FOLDER = Path(__file__).resolve().parent
SHIPPED = ("readme", "text_sensitivity")  # they show the shipped model
NAMES = (*SHIPPED, "left_right", "pseudo_mask", "double_u", "epi", "dice")


def main(names: list[str]) -> None:
    """Draw the named pictures into this folder."""
    chosen = [name for word in names or NAMES for name in (SHIPPED if word == "shipped" else (word,))]
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        sys.exit(f"no picture {', '.join(unknown)}; there are {', '.join(NAMES)} and `shipped`")
    for name in chosen:
        path = FOLDER / f"{name}.png"
        style.save(import_module(name).draw(), path)
        print(f"{path.relative_to(FOLDER.parents[1])}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
