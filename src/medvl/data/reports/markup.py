"""What exports leave in a report that no one typed: HTML, entities, escaped line breaks, markdown, odd white space."""

from __future__ import annotations

import html
import re

from medvl.data.reports.headings import known_name

_BLOCKS = "p|div|br|hr|tr|table|tbody|thead|ul|ol|dl|dt|dd|h[1-6]|section|article|header|footer|body|html|pre"
_INLINE = "b|i|u|s|em|strong|span|font|sup|sub|small|big|a|center|tt|code|mark|label|abbr|img|o:p|wbr|xml|meta|link"
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_UNSEEN = re.compile(
    r"<!--.*?-->|<(style|script|title)\b[^>]*>.*?</\1\s*>|<!doctype[^>]*>|<\?xml[^>]*>", re.DOTALL | re.I
)
_ITEM = re.compile(r"<li\b[^<>]*>", re.IGNORECASE)
_BLOCK = re.compile(rf"</?(?:{_BLOCKS}|li)(?:\s[^<>]*)?/?>", re.IGNORECASE)
_CELL = re.compile(r"</?t[dh](?:\s[^<>]*)?/?>", re.IGNORECASE)
_TAG = re.compile(rf"</?(?:{_INLINE})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_CLOSING = re.compile(r"</([A-Za-z][\w:-]{1,40})\s*>")
_ELEMENT = re.compile(r"<(/?)([A-Za-z][\w:-]{1,40})(\s[^<>]*)?>")
_LABEL = re.compile(r"""\blabel\s*=\s*["']([^"']{1,60})["']""", re.IGNORECASE)
_ENTITY = re.compile(
    r"&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});|&(?:nbsp|lt|gt|amp|quot)(?![\w;])"
)
_SPREADSHEET = re.compile(r"_x([0-9A-Fa-f]{4})_")  # how XLSX writes a control character
_HL7 = re.compile(r"\\\.(?:br|sp)\\")
# "No effusion.\nHeart" with a backslash; "left\right" and "w\o" are none. Where one is certain, all are meant.
_ESCAPED = re.compile(r"\\r\\n|\\n\\r|\\[nr](?![a-z])|(?<![a-z])\\[nr]")
_ESCAPED_TOO = re.compile(r"\\n|\\r(?![a-z])|\\t(?![a-z])")
_BREAKS = re.compile("\r\n|[\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
_WIDE = re.compile(r"[ \t]{40,}")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_NOTHING = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f\u00ad\u200b-\u200f\u2060\ufeff\ufffd]")
_ITALIC = re.compile(r"(?<![\w_])_(?=[A-Za-z])([^\n_]{1,200}?)(?<=[\w.:;,)%])_(?![\w_])")
_BOLD = re.compile(r"\*\*(?=\w)([^\n*]{1,200}?)(?<=[\w.:;,)%])\*\*(?!\w)")
_LINE_OF_MARKS = re.compile(r"^[ \t]*[-=*~#]{3,}[ \t]*$", re.MULTILINE)


def without_markup(text: str) -> tuple[str, int]:
    """-> the text as a reader sees it, with `\\n` as its only line break, and how many marks were resolved.

    Only the names of HTML, and those that are closed again (`<FINDINGS>...</FINDINGS>`), count as tags: "<5 mm" and
    "a < b" stay. A text that was escaped twice is resolved twice.
    """
    text = _WIDE.sub("        ", _BREAKS.sub("\n", text.removeprefix("\ufeff")))
    total = 0

    def replaced(pattern: re.Pattern[str], by: str) -> None:
        nonlocal text, total
        text, num = pattern.subn(by, text)
        total += num

    text, num = _SPREADSHEET.subn(_control, text)
    total += num
    for _ in range(3):
        before = text
        for pattern, by in ((_CDATA, r"\1"), (_UNSEEN, " "), (_ITEM, "\n- "), (_BLOCK, "\n"), (_CELL, " "), (_TAG, "")):
            if "<" in text:
                replaced(pattern, by)
        if "</" in text:
            text, num = _without_elements(text)
            total += num
        if "&" in text:
            text, num = _ENTITY.subn(_character, text)
            total += num
        if text == before:
            break
    if "\\" in text:
        replaced(_HL7, "\n")
        before = text
        replaced(_ESCAPED, "\n")
        if text != before:
            replaced(_ESCAPED_TOO, "\n")
    text = _NOTHING.sub("", _SPACES.sub(" ", _BREAKS.sub("\n", text)))
    replaced(_BOLD, r"\1")
    replaced(_ITALIC, r"\1")
    return _LINE_OF_MARKS.sub("", text), total


def _without_elements(text: str) -> tuple[str, int]:
    """Without the tags of XML; one that is called like a section becomes its heading."""
    names = set(_CLOSING.findall(text))

    def heading(match: re.Match[str]) -> str:
        closes, name, more = match.groups()
        if name not in names:
            return match[0]
        label = _LABEL.search(more or "")
        title = label[1] if label else re.sub("[_-]", " ", name)
        return "\n" if closes or known_name(title) is None else f"\n{title.upper()}:\n"

    changed = _ELEMENT.sub(heading, text)
    return changed, len(_ELEMENT.findall(text)) - len(_ELEMENT.findall(changed))


def _control(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return "\n" if character == "\n" else " " if character == "\t" else "" if ord(character) < 32 else match[0]


def _character(match: re.Match[str]) -> str:
    return html.unescape(match[0])
