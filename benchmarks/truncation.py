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

from medvl.data.reports import mirror_text
from medvl.data.tables import read_table

TOKEN = re.compile(r"\w+|[^\w\s]")


def named_sides(text: str) -> list[str | None]:
    """What each token of the text names: "left", "right", or neither.

    A token names a side if swapping the sides changes it, so that "left" as a verb does not. That is asked of the whole
    text: of a cut one "all left" may be all that is left.
    """
    mirrored = mirror_text(text, left_right=True)
    spelt = mirror_text(mirrored, left_right=True)  # the text itself, its misspelt sides put right
    pairs = zip(TOKEN.findall(spelt), TOKEN.findall(mirrored), strict=True)
    return [None if word == other else "left" if word[0] in "lL" else "right" for word, other in pairs]


def kept_and_lost(text: str, max_tokens: int) -> tuple[set[str], set[str]]:
    """The sides that the first `max_tokens` tokens of the text name, and those that only the rest names."""
    start = " ".join(TOKEN.findall(text)[:max_tokens])
    end = len(named_sides(start))  # in the spelt text, where words that were run together are parted
    sides = named_sides(text)
    kept = {side for side in sides[:end] if side}
    return kept, {side for side in sides[end:] if side} - kept


def count(texts: Sequence[str], max_tokens: int) -> dict[str, int]:
    """Numbers of texts: all, cut, naming both sides, losing the left, the right, every side."""
    found = [kept_and_lost(text, max_tokens) for text in texts]
    return {
        "texts": len(texts),
        "cut": sum(len(TOKEN.findall(text)) > max_tokens for text in texts),
        "name both sides": sum(kept | lost == {"left", "right"} for kept, lost in found),
        "lose the left": sum("left" in lost for _, lost in found),
        "lose the right": sum("right" in lost for _, lost in found),
        "no side left": sum(bool(lost) and not kept for kept, lost in found),
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
