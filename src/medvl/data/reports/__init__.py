"""What a text says: findings, sides, heights, denials; and how it reads after the image was flipped.

The rules are English and lexical. Texts in other languages are recognised, so that they are left alone.
"""

from __future__ import annotations

from medvl.data.reports.languages import is_english
from medvl.data.reports.marks import Side
from medvl.data.reports.mirror import can_mirror, mirror_text, names_height, names_side
from medvl.data.reports.reading import Finding, findings, negate_text

__all__ = [
    "Finding",
    "Side",
    "can_mirror",
    "findings",
    "is_english",
    "mirror_text",
    "names_height",
    "names_side",
    "negate_text",
]
