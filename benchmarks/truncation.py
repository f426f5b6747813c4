"""What a limit on tokens takes from a column of texts: how many are cut, and how many lose a side.

    python benchmarks/truncation.py CAPTIONS.csv --column Description --max-tokens 10

Tokens are words and punctuation marks, as the released LViT counts them.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from medvl.data.reports import mirror_text, names_side
from medvl.data.tables import read_table

TOKEN = re.compile(r"\w+|[^\w\s]")


def lost_sides(text: str, max_tokens: int) -> set[str]:
    """The sides that the whole text names and its first `max_tokens` tokens do not."""
    kept = " ".join(TOKEN.findall(text)[:max_tokens])
    return sides(text) - sides(kept)


def sides(text: str) -> set[str]:
    """ "left", "right", or both, as words of the text."""
    words = set(re.findall(r"[a-z]+", text.lower())) if names_side(text) else set()
    # A word counts if swapping sides would change it, so that "left" as a verb does not.
    moved = set(re.findall(r"[a-z]+", mirror_text(text, left_right=True).lower())) if words else set()
    both = words & moved & {"left", "right"}
    return both | ((words ^ moved) & words & {"left", "right"})


def count(texts: Sequence[str], max_tokens: int) -> dict[str, int]:
    """Numbers of texts: all, cut, losing the left, losing the right, left without any side."""
    lost = [lost_sides(text, max_tokens) for text in texts]
    none_left = [
        bool(gone) and not sides(" ".join(TOKEN.findall(text)[:max_tokens]))
        for text, gone in zip(texts, lost, strict=True)
    ]
    return {
        "texts": len(texts),
        "cut": sum(len(TOKEN.findall(text)) > max_tokens for text in texts),
        "lose the left": sum("left" in gone for gone in lost),
        "lose the right": sum("right" in gone for gone in lost),
        "no side left": sum(none_left),
    }


def main() -> None:
    """Parse the command line, print a table by split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--column", default="text")
    parser.add_argument("--max-tokens", type=int, default=10)
    words = parser.parse_args()
    by_split: dict[str, list[str]] = defaultdict(list)
    for _, row in read_table(words.table).rows:
        by_split[row.get("split", "")].append(row[words.column])
    for split, texts in by_split.items():
        numbers = count(texts, words.max_tokens)
        shares = (f"{name} {number} ({number / len(texts):.1%})" for name, number in numbers.items() if name != "texts")
        print(f"{split or 'all':6} {len(texts)} texts at {words.max_tokens} tokens: {', '.join(shares)}")


if __name__ == "__main__":
    main()
