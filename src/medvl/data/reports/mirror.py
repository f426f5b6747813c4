"""How a text reads after its image was flipped, and whether that can be said for certain."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from medvl.data.reports.heights import height_marks
from medvl.data.reports.languages import is_english
from medvl.data.reports.marks import Mark, spell
from medvl.data.reports.sides import side_marks


@lru_cache(maxsize=1 << 14)
def can_mirror(text: str, *, left_right: bool = False, up_down: bool = False) -> bool:
    """Whether `mirror_text` gives a true text for the flipped image.

    False for another language than English (its sides cannot be rewritten), for places that have no counterpart on the
    other side (the middle lobe, RML, the lingula), and for what may be a side and may be none ("RT" that may stand for
    radiotherapy, "right heart", a lone L or R). True for a text without any of this: nothing has to be rewritten.
    """
    if not (left_right or up_down):
        return True
    if not is_english(text):
        return False
    spelt = spell(text)
    marks = [*(side_marks(spelt) if left_right else ()), *(height_marks(spelt) if up_down else ())]
    return all(mark.mirrored is not None for mark in marks)


def mirror_text(text: str, *, left_right: bool = False, up_down: bool = False) -> str:
    """The text of the flipped image: side words swapped, or height words, or both. Case is kept.

    A text that cannot be mirrored for certain (`can_mirror` is False) comes back as it is: such an image must not be
    flipped. Twice the same flip gives the text back, except that misspelt places come back spelt right ("leff" as
    "left"), and, after up-down flips, "basilar" as "basal" and "bibasal" as "bibasilar".
    """
    if not (left_right or up_down) or not can_mirror(text, left_right=left_right, up_down=up_down):
        return text
    text = spell(text)
    if left_right:
        text = _rewrite(text, side_marks(text))
    if up_down:
        text = _rewrite(text, height_marks(text))
    return text


def names_side(text: str) -> bool:
    """Whether a word of the text names the left or the right side."""
    return any(mark.sides for mark in side_marks(spell(text)))


def names_height(text: str) -> bool:
    """Whether a word of the text names a height (upper, lower, ...)."""
    return any(mark.reads for mark in height_marks(spell(text)))


def _rewrite(text: str, marks: Iterable[Mark]) -> str:
    parts, position = [], 0
    for mark in marks:
        if mark.mirrored is not None:
            parts += [text[position : mark.start], mark.mirrored]
            position = mark.end
    return "".join([*parts, text[position:]])
