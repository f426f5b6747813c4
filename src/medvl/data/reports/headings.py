"""The headings of a radiology report: which words name a section, and where a heading stands.

English, Spanish, Portuguese, French and German names, compared without case and accents. A heading is a line start in
capitals up to a colon, whatever its name; or a known name in any case with a colon or a dash behind it, or alone on its
line, with or without marks round it (markdown, brackets, a number).
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

NAMES = ("impression", "findings", "comparison", "indication", "technique", "examination")
ADDENDUM, TITLE = "addendum", "final report"

# One word that makes a title one of a section; the first of NAMES that it stands for counts.
_WORDS = {
    "impression": "impression impressions conclusion conclusions opinion summary impresion impresiones conclusiones "
    "juicio resumen impressao impressoes conclusao conclusoes opiniao resumo synthese beurteilung gesamtbeurteilung "
    "zusammenfassung fazit einschatzung einschaetzung schlussfolgerung bewertung",
    "findings": "findings finding result results observation observations hallazgos hallazgo resultado resultados "
    "description analise analyse "
    "descripcion observaciones informe achados achado descricao observacoes laudo relatorio resultat resultats "
    "constatation constatations befund befunde befundbericht ergebnis ergebnisse beschreibung",
    "comparison": "comparison comparisons comparacion comparativa comparacao comparaison vergleich voraufnahme "
    "voraufnahmen vergleichsaufnahmen voruntersuchung voruntersuchungen vorbefund vorbefunde anteriorite anteriorites",
    "indication": "indication indications history reason indicacion indicaciones motivo antecedentes historia sospecha "
    "indicacao indicacoes historico hipotese motif antecedents contexte renseignements indikation fragestellung "
    "anamnese vorgeschichte",
    "technique": "technique techniques tecnica tecnicas technik aufnahmetechnik methodik metodo",
    "examination": "examination exam exploracion examen exame untersuchung untersuchungsart",
}
# These stand for the impression where no word above does; see `report_sections`.
_WEAK = set(
    "interpretation assessment diagnosis diagnoses evaluation interpretacion valoracion diagnostico diagnosticos "
    "interpretacao avaliacao diagnostic diagnostics diagnose diagnosen avis".split()
)
_BY_WORD = {word: name for name, words in _WORDS.items() for word in words.split()}
# What may stand beside such a word in a title in small letters.
_BESIDE = set(
    "clinical final overall radiographic radiographical radiological radiologic radiology imaging main chest x-ray "
    "xray for of the this and or study test information data details admitting referring suspected working "
    "preoperative clinica clinico clinicos clinicas radiologica radiologico radiologicos radiologicas diagnostica "
    "presuntivo por imagen imagem de del la el los las do da dos das du le les l d y e et und clinique cliniques "
    "radiologique radiologiques diagnostique klinische klinischer radiologische radiologischer rechtfertigende "
    "consulta estudio thorax torax".split()
)
_NOT_FIRST = set("for of the this and or de del la el los las do da dos das du le les l d y e et und".split())
_BEFORE_IMAGING = set(
    "clinical admitting referring suspected working preoperative clinico clinica presuntivo sospecha clinique "
    "klinische".split()
)  # a diagnosis of these is the reason for the examination
_PHRASES = {
    **dict.fromkeys(
        (
            *("clinical information", "clinical data", "clinical details", "clinical background", "datos clinicos"),
            *("informacion clinica", "dados clinicos", "informacao clinica", "informacoes clinicas"),
            *("klinische angaben", "klinik", "clinical question", "quadro clinico", "cuadro clinico"),
        ),
        "indication",
    ),
    **dict.fromkeys(
        ("compte rendu", "compte-rendu", "report", "body of report", "report body", "report text", "narrative"),
        "findings",
    ),
    **dict.fromkeys(("au total",), "impression"),
    **dict.fromkeys(
        (
            *("estudios previos", "estudio previo", "exames anteriores", "estudos anteriores", "prior studies"),
            *("examen anterieur", "examens anterieurs", "prior study"),
        ),
        "comparison",
    ),
}
# Names of a title in capitals only, for they are words of a sentence too.
_IN_CAPITALS = {
    **dict.fromkeys(("chest",), "findings"),
    **dict.fromkeys(("imp", "impr"), "impression"),
    **dict.fromkeys(("study", "type of exam", "exam type", "type of study", "estudio", "estudo"), "examination"),
    **dict.fromkeys(("prior", "priors", "correlation"), "comparison"),
    **dict.fromkeys(
        ("procedure", "views", "number of views", "protocolo", "protocole", "methode", "proyecciones", "incidences"),
        "technique",
    ),
}
# "PA AND LATERAL VIEWS OF THE CHEST:" stands where other reports have FINDINGS; so does "CT ABDOMEN:".
_VIEW_WORDS = set(
    "pa ap lateral frontal portable upright supine erect semi semierect semiupright single one two three four view "
    "views chest radiograph radiographs radiography film films x-ray xray x ray bedside and of the a in with "
    "decubitus oblique lordotic inspiratory expiratory right left abdomen abdominal pelvis head neck spine cervical "
    "thoracic lumbar knee hip shoulder ankle wrist hand foot elbow brain sinuses ribs contrast without iv plain "
    "kub".split()
)
_MODALITIES = set(
    "ct cta mri mr us ultrasound pet sonogram mammogram fluoroscopy radiograph radiographs radiography film films "
    "x-ray xray view views cxr axr xr cr dr dx rx".split()
)
_A_VIEW = {"chest", "lateral", "frontal"} | _MODALITIES
# Headings within the findings; they do not end the section.
_PARTS = set(
    "heart lungs lung mediastinum cardiomediastinum hila hilum pleura diaphragm bones skeleton vasculature airways "
    "abdomen lines tubes devices hardware tissues cardiac pulmonary pleural osseous structures spaces space support "
    "soft upper lower silhouette cardiomediastinal parenchyma catheters other right left and of the airway airspaces "
    "mediastinal hilar contours wall thoracic bony aorta great vessels trachea esophagus ribs spine liver spleen "
    "kidneys stomach bowel musculoskeletal vascular vascularity lymph nodes apparatus medical additional "
    "corazon pulmones pulmon huesos oseo hilios mediastino cardiaca silueta diafragma parenquima partes blandas y "
    "coracao pulmoes pulmao ossos coeur poumons poumon plevre mediastin diaphragme parenchyme os et "
    "herz lunge lungen zwerchfell skelett hili knochen weichteile und".split()
)
_TITLES = {
    "final report": TITLE,
    "wet read": "wet read",
    "preliminary report": "preliminary report",
    "informe final": TITLE,
}
PROVISIONAL = ("provisional", "preliminary", "wet read", "pfi")

_LETTER = r"A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
_CAPITAL = r"A-Z\u00c0-\u00d6\u00d8-\u00de"
_NUMBER = r"(?:(?:\d{1,2}|[IVX]{1,4}|[A-E])[.)][ \t]*)?"
_OPEN, _CLOSE = r"(?:(?:[#*=~<\[(-]{1,6}|__(?!_))[ \t]*)?", r"(?:[ \t]*[*=~>\])#-]{1,6}|(?<!_)__(?!_))?"
_WORDS_OF = rf"[{_LETTER}][{_LETTER} ()/,&.'\u2019-]{{1,78}}?"
# name, then what follows it: a colon, a dash, or the end of the line
_LINE = re.compile(
    rf"^[ \t]*{_NUMBER}{_OPEN}{_NUMBER}(?P<title>{_WORDS_OF}){_CLOSE}[ \t]*"
    rf"(?:(?P<colon>:)\**|"
    rf"(?P<dash>(?<=[ \t])[-\u2013\u2014]+|[\u2013\u2014-]+(?=[ \t])|(?<=[A-Z]{{3}})-(?=[A-Z][a-z]))|"
    rf"(?P<alone>[.;]?[ \t]*$))",
    re.MULTILINE,
)
_CAPITALS = re.compile(rf"^[ \t]*(?P<title>[{_CAPITAL}][{_CAPITAL}0-9 ()/,&.'-]{{1,78}})[ \t]*:(?=\s|$)", re.MULTILINE)
_NO_MARK = re.compile(
    rf"^[ \t]*(?P<title>[{_CAPITAL}]{{7,}})[ \t]+(?=[{_CAPITAL}][a-z]|\d{{1,2}}[.)] |No )", re.MULTILINE
)
_ADDENDUM = re.compile(
    rf"^[ \t]*{_OPEN}(?:final[ \t]+)?(?:addendum|addenda|nachtrag|adenda|adendo|additif|erganzung|erg\u00e4nzung)\b"
    r"(?:[ \t]*(?:#|no\.?|nr\.?)?[ \t]*\d{1,2})?(?:[ \t]*\([^)\n]*\)|[ \t]+(?:begins?|starts?|report|text|note)\b|"
    r"[ \t]+(?:to|dated|by|on|from|vom)\b[^:\n]{0,60}|"
    r"[ \t]+[\d./-]+(?:[ \t]+\d{1,2}:\d{2}(?:[ \t]*[ap]m)?)?)?"
    rf"{_CLOSE}[ \t]*(?::(?!\d)|[-\u2013\u2014](?=\s)|$)",
    re.MULTILINE | re.IGNORECASE,
)
_MISSPELT = re.compile(r"IM\w?P?RES{1,3}IONS?$")


@dataclass(frozen=True, slots=True)
class Heading:
    """One heading of a text: the name of its section, and the characters it takes."""

    title: str  # as typed
    name: str
    start: int
    end: int
    weak: bool = False  # it stands for the impression only where no other heading does


def bare(text: str) -> str:
    """The text without accents, of the same length."""
    if text.isascii():
        return text
    return "".join(c if c.isascii() else unicodedata.normalize("NFKD", c)[0] for c in text).replace("\u00df", "s")


def fold(text: str) -> str:
    """Small letters without accents, white space single."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return " ".join("".join(c for c in plain if not unicodedata.combining(c)).split())


def _words(title: str) -> list[str]:
    return re.findall(r"[a-z][a-z-]*", fold(title).replace("\u2019", "'").replace("'", " "))


def known_name(title: str) -> str | None:
    """The section of a title in any case, None where it is no title that is known for certain."""
    words = _words(title)
    if not words or len(words) > 6 or words[0] in _NOT_FIRST:
        return None
    key = " ".join(words)
    if key in _PHRASES:
        return _PHRASES[key]
    if any(word not in _BY_WORD and word not in _WEAK and word not in _BESIDE for word in words):
        return None
    name = _by_words(words)
    return None if name in ("comparison", "technique") and _OF_THE_IMAGE.intersection(words) else name


_OF_THE_IMAGE = {"chest", "x-ray", "xray", "thorax", "torax"}


def _by_words(words: list[str]) -> str | None:
    names = {_BY_WORD[word] for word in words if word in _BY_WORD}
    if any(word in _WEAK for word in words):
        names.add("indication" if _BEFORE_IMAGING.intersection(words) else "impression")
    return next((name for name in NAMES if name in names), None)


def is_weak(title: str) -> bool:
    """Whether a title means the impression by a word of `_WEAK` alone: interpretation, assessment, diagnosis."""
    words = _words(title)
    return any(word in _WEAK for word in words) and all(_BY_WORD.get(word) != "impression" for word in words)


def section_name(header: str) -> str | None:
    """The name that a header in capitals stands for, None for the heading of an organ, which is part of its section."""
    plain = fold(header)
    words = re.findall(r"[a-z][a-z-]*", plain)
    key = " ".join(words)
    if key in _IN_CAPITALS or key in _PHRASES:
        return _IN_CAPITALS.get(key) or _PHRASES[key]
    if words and set(words) <= _PARTS:
        return None
    close = {
        known
        for word in words
        if len(word) > 5 and word not in _BY_WORD
        for known in difflib.get_close_matches(word, NAMES, 1, 0.8)
        if word[0] == known[0] or len(word) < len(known)
    }  # not COMPRESSION
    name = next((name for name in NAMES if name in close | {_by_words(words)}), None)
    if name is not None:
        return name
    if set(words) <= _VIEW_WORDS | _MODALITIES and set(words) & _A_VIEW:
        return "findings"
    return plain


def examination_of(title: str) -> bool:
    """Whether a title in capitals names an examination: "CHEST, PA AND LATERAL", "CT ABDOMEN"; not "CHEST" alone."""
    words = set(_words(title))
    return words <= _VIEW_WORDS | _MODALITIES and bool(words & (_MODALITIES | {"pa", "ap", "lateral", "portable"}))


def headings(text: str) -> list[Heading]:
    """The headings of a text with line breaks, in order."""
    marks: dict[int, Heading] = {}
    for match in _ADDENDUM.finditer(text):
        marks[match.start()] = Heading(match[0].strip(), ADDENDUM, match.start(), match.end())
    capitals = {known_name(text[start : end - 1]) for start, end in inline_headings(text)}
    small = not capitals & {"findings", "impression"}  # so they may be in small letters
    for match in _LINE.finditer(text):
        if match.start() not in marks and (heading := _known_line(text, match, small)) is not None:
            marks[match.start()] = heading
    for match in _CAPITALS.finditer(text):
        if match.start() in marks:
            continue
        title = match["title"]
        name = section_name(title)
        if name is None or (name not in NAMES and sum(c.isalpha() for c in title) < 4):
            continue  # "LUNGS:", "T8:", "CT:"
        marks[match.start()] = Heading(title, name, match.start(), match.end(), is_weak(title))
    for match in _NO_MARK.finditer(text):
        name = known_name(match["title"])
        if match.start() not in marks and name is not None:
            marks[match.start()] = Heading(match["title"], name, match.start(), match.end(), is_weak(match["title"]))
    bodies = {_after_blanks(text, mark.end) for mark in marks.values()}
    for match in _LINE.finditer(text):  # "CT CHEST" above FINDINGS names an examination
        title, following = match["title"].strip(), _NEXT_LINE.match(text, match.end())
        if match["alone"] is None or following is None or following.end() not in marks or match.start() in marks:
            continue
        is_body = _after_blanks(text, match.start()) in bodies
        if "." not in match["alone"] and not is_body and examination_of(title):
            marks[match.start()] = Heading(title, "examination", match.start(), match.end())
    return [marks[start] for start in sorted(marks)]


_BLANKS, _NEXT_LINE = re.compile(r"\s*"), re.compile(r"(?:[ \t]*\n)+")


def _after_blanks(text: str, start: int) -> int:
    match = _BLANKS.match(text, start)
    return start if match is None else match.end()


def _known_line(text: str, match: re.Match[str], small: bool) -> Heading | None:
    title = match["title"].strip()
    name = known_name(title)
    if name is None and match["alone"] is not None and title[0].isupper():
        name = _TITLES.get(fold(title))
    if name is None:
        return None
    if title[0].islower():  # a line break within a sentence may leave such a word at the start of a line
        before = text[: match.start()].rstrip(" \t")
        closed = not before.strip() or before.endswith("\n\n") or before.rstrip()[-1:] in ".:;!?"
        if not closed or not small or match["dash"]:
            return None
    if (match["alone"] or "").strip() == "." and not title.isupper():
        return None
    return Heading(title, name, match.start(), match.end(), is_weak(title))


_WORD = rf"[{_LETTER}]+(?:-[{_LETTER}]+)*"
_MARK = re.compile(r"(?<![ \t])(?:[ \t]*:|[ \t]+[-\u2013\u2014](?=[ \t]))")
_BEFORE_MARK = re.compile(rf"(?<![{_LETTER}-]){_WORD}(?:(?:[ \t]+|[ \t]*[/&,][ \t]*){_WORD}){{0,5}}$")
_LONGEST = 80  # characters of a title


def inline_headings(text: str, *, small: bool = False, anywhere: bool = True) -> Iterator[tuple[int, int]]:
    """Where known names with a colon stand in a text: (start, end), the colon included.

    Args:
        small: those in small letters, which count at the start of a line or after the end of a sentence only; else
            those that begin with a capital.
        anywhere: also within a sentence: a name in capitals, or one that cannot be a word of the sentence.
    """
    for mark in _MARK.finditer(text):
        low = max(mark.start() - _LONGEST, 0)
        match = _BEFORE_MARK.search(text[low : mark.start()])
        for word in re.finditer(_WORD, match[0] if match else ""):
            start = low + word.start() + (match.start() if match else 0)
            title = text[start : mark.start()]
            if title[0].isupper() == small or not (known_name(title) or _MISSPELT.fullmatch(title)):
                continue
            before = text[:start].rstrip(" \t")
            opens = not before.strip() or before[-1] in "\n.!?;)" or (before[-1] == ":" and not small)
            if opens or (
                anywhere
                and not small
                and mark[0][-1] == ":"
                and text[start - 1] not in "/-&"
                and _cuts_in(before, title)
            ):
                yield start, mark.end()
            break


def _cuts_in(before: str, title: str) -> bool:
    """Whether a title within a sentence is a heading whose line break was lost, not a part of a longer name."""
    last = re.search(rf"{_WORD}$", before)
    return not is_weak(title) or (title.isupper() and (last is None or not last[0].isupper()))


_TITLE_LIKE = re.compile(
    rf"(?:^|(?<=[.!?;]))[ \t]*(?P<title>[{_CAPITAL}][{_LETTER}]{{2,}}(?:[ \t/-]+[{_LETTER}]{{2,}}){{0,3}})[ \t]*:",
    re.MULTILINE,
)


def unknown_titles(text: str) -> tuple[str, ...]:
    """What looks like a heading and is none that is known, in small letters, each once."""
    titles = (" ".join(match["title"].lower().split()) for match in _TITLE_LIKE.finditer(text))
    return tuple(dict.fromkeys(title for title in titles if section_name(title) not in (*NAMES, None, TITLE)))
