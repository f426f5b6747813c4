"""rough; replaced"""
from __future__ import annotations
import re
from dataclasses import dataclass
@dataclass(frozen=True, slots=True)
class Finding:
    term: str | None
    side: str | None
    zones: frozenset[str]
    count: int | None
    negated: bool
_LR={"left":"right","right":"left"}; _UD={"upper":"lower","lower":"upper","superior":"inferior","inferior":"superior"}
def mirror_text(text: str, *, left_right: bool = False, up_down: bool = False) -> str:
    d=dict(_LR if left_right else {}, **(_UD if up_down else {}))
    return re.sub(r"[A-Za-z]+", lambda m: d.get(m[0].lower(), m[0]), text)
def names_side(text: str) -> bool:
    return bool(re.search(r"\b(left|right)\b", text.lower()))
def names_height(text: str) -> bool:
    return bool(re.search(r"\b(upper|lower|superior|inferior)\b", text.lower()))
def is_english(text: str) -> bool:
    return text.isascii()
def negate_text(text: str) -> str:
    return "No " + text
def findings(text: str) -> tuple[Finding, ...]:
    sides={s for s in ("left","right") if s in text.lower()}
    return tuple(Finding(None,s,frozenset(),None,False) for s in sides)
