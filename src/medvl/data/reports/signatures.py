"""Who wrote a report, when and by what means: signatures, names, dictation lines, dates, attestations.

They say nothing about an image, and they hold the names of people. English, Spanish, Portuguese, French, German.
Nothing goes but whole lines and whole sentences that begin with such words, a line that is nothing but a date, a name
with its title or a typist's initials, and what follows "electronically signed by" in its sentence. Patterns are matched
without accents; in a list of phrases a space stands for any number of them.
"""

from __future__ import annotations

import re

from medvl.data.reports.headings import bare, headings
from medvl.data.reports.sentences import sentences


def _either(phrases: str) -> str:
    """One phrase a line -> a pattern of any of them."""
    lines = [re.sub(r" (?![^\[\]]*\])", r"[ \\t]+", line.strip()) for line in phrases.strip().splitlines()]
    return f"(?:{'|'.join(lines)})"


_BY = "(?:by|por|par|von|durch)"
_NAME = r"(?:(?-i:[A-Z][\w.'\u2019-]*|_{2,}|X{4,}|[a-z]{1,4}\d\w*)|(?:dra?|prof|mr|mrs|ms)\b)"
_METHOD = r"(?-i:CT|MRI?|US|PET|XR)\b"  # "verified by CT"
_DONE = _either(
    """signed|dictated|transcribed|interpreted|read|reviewed|reported|verified|approved|authenticated|authori[sz]ed
    finali[sz]ed|released|validated|attested|co-?signed|typed|prepared|edited|entered|performed|completed
    firmado|validado|informado|dictado|transcrito|revisado|realizado|elaborado|redactado|fdo|visado
    assinado|laudado|liberado|digitado|signe|valide|dicte|redige|relu|interprete|saisi|frappe
    befundet|freigegeben|unterzeichnet|unterschrieben|signiert|validiert|vidiert|diktiert|geschrieben|erstellt
    bestatigt|freigabe|gez"""
)
_BY_MACHINE = (
    "(?:electronically|digitally|electronicamente|eletronicamente|digitalmente|electroniquement|elektronisch|digital)"
)
_PERSON = _either(
    """(?:(?:attending|reading|reporting|interpreting|staff|consultant|signing|dictating|referring|ordering|requesting|\
approving|primary|responsible|chief|supervising|teaching|resident|board-?certified) )*\
(?:radiologist|physician|attending|resident|fellow|doctor|provider|clinician)
    author|transcriptionist|transcriber|typist|technologist|radiographer|sonographer|reporter|reader|signatory
    radiolog[oa]s?|radiologista|tecnico|radiologue|radiologe|radiologin|befunder(?:in)?|schreibkraft|unterzeichner
    medic[oa](?: (?:radiolog[oa]|radiologista|informante|responsable|responsavel|solicitante|adjunto|residente))?
    medecin(?: (?:radiologue|referent|traitant|prescripteur|lecteur))?
    oberarzt|oberarztin|chefarzt|assistenzarzt|facharzt|arzt|arztin|untersucher"""
)
_STAMP = _either(
    """(?:date|time)(?:[ /&]*(?:and)?[ /&]*time)?(?: of)?(?: (?:the )?(?:report|dictation|transcription|signature|\
service|exam(?:ination)?|study|birth|dictated|transcribed|signed|reported|finali[sz]ed))?
    (?:report|dictation|transcription|signature|exam(?:ination)?|study|service|print|signed|dictated|transcribed|\
verified|approved|final) (?:date|time|status)(?:[ /&]*(?:and)?[ /&]*time)?
    (?:work-?station|dictation|transcription|job|document|report|accession|order|visit) (?:id|no\\.?|number|nr\\.?|#)
    work(?:-|[ \\t]+)?station|accession|mrn|npi|gmc|patient (?:name|id)|dob|job(?=[ \\t]*[:#=][ \\t]*\\d)
    phone|tel(?:ephone)?|pager|fax|(?:cpt|billing|icd)(?:-?(?:9|10))?(?: codes?)?
    (?:medical )?licen[cs]e(?: (?:no\\.?|number|#))?
    dictated|transcribed|signed|approved|verified|finali[sz]ed|released|authenticated|(?:electronic )?signature
    attestation|cc|dd|dt|td
    fecha(?: y hora)?(?: (?:de|del) (?:la )?(?:informe|firma|validacion|estudio|exploracion|examen))?
    firma|firmado|fdo\\.?|n\\.?[\u00bao]?[ \\t]*(?:de )?colegiad[oa]|colegiad[oa]
    data(?: d[oae] (?:laudo|exame|assinatura|liberacao))?|assinatura|assinado|crm(?:[-/ ][a-z]{2})?|rqe
    date (?:de l['\u2019]examen|du compte[ -]rendu|de validation)|signe|valide|rpps
    datum|befunddatum|untersuchungsdatum|diktatdatum|unterschrift|freigabe|gez\\.?|lanr"""
)
_ATTEST = _either(
    r"""I,?[ \t]+(?:\S+[ \t]+){0,6}?(?:reviewed|viewed|examined|interpreted|read|supervised|evaluated|dictated)\b\
(?=.*\b(?:image|film|stud|exam|report|interpretation|resident|finding|radiograph|document|above|procedure|scan|data|agree))
    I (?:agree|concur|attest|certify|confirm)\b(?=.*\b(?:finding|interpretation|report|resident|above|that|image|stud))
    as (?:the|a|an) (?:attending|teaching|supervising|staff)\b
    (?:the )?(?:attending|teaching|staff|supervising) (?:radiologist|physician)s?[^.\n]*\b\
(?:reviewed|agrees?|interpreted|present)\b
    (?:(?:the|this|these) )?(?:above )?(?:images?|films?|stud(?:y|ies)|exam(?:ination)?)[^.\n]{0,40}\b\
(?:was|were|been) (?:personally )?\
(?:reviewed|interpreted|read|dictated)\b[^.\n]*\b(?:by|with) (?:the )?\
(?:dr|attending|staff|radiologist|resident|physician|___)
    (?:this|the) (?:report|dictation|document|note|interpretation) (?:was|has been|is|may|were) [^.\n]{0,60}?\b\
(?:dictated|signed|transcribed|reviewed|finali[sz]ed|approved|verified|generated|created|prepared|produced|contain|voice|\
speech)\b
    [^.\n]{0,80}\b(?:voice|speech)[ -]?recognition\b
    [^.\n]{0,80}\b(?:powerscribe|power scribe|dragon (?:dictation|medical|naturally))\b
    [^.\n]{0,60}\b(?:typographical|transcription|dictation|grammatical) (?:errors?|mistakes?)\b
    dr\.?[ \t]+[^.\n]{0,60}\b(?:reviewed|interpreted)\b[^.\n]*\b(?:agrees?|images?|stud|films?|interpretation|report)
    he (?:revisado|supervisado) (?:personalmente )?(?:las|el|los|la)\b
    este (?:informe|laudo) (?:ha sido|fue|foi)\b
    (?:ce|le) (?:present )?(?:compte[ -]rendu|document) (?:a ete|est)\b
    (?:dieser|der) (?:befund|bericht)(?:bericht)? (?:wurde|ist) (?:maschinell|elektronisch|mit|durch|von)\b
    end of (?:report|impression|dictation|addendum|findings|transcription)
    (?:addendum|report|dictation) ends?(?=[ \t*.:]*$)
    dictated (?:but|and) not (?:yet )?(?:read|signed|reviewed|edited|proofread)
    (?:attending|teaching|supervising|staff|resident)(?: (?:physician|radiologist))?(?:'s)? (?:statement|attestation)s?:
    (?:sincerely|(?:kind |best )?regards|respectfully|atentamente|un saludo|saludos|atenciosamente|cordialement)\b
    thank(?:s| you) for (?:this|the|your|referring|allowing|asking)\b
    (?:images?|films?|study|exam(?:ination)?) (?:reviewed|interpreted|read|dictated)\b[^.\n]*\bby\b
    (?:report|document) (?:created|printed|generated|dictated|finali[sz]ed|issued) (?:on|at|by)\b
    bien confraternellement|mit freundlichen?(?: kollegialen)? gru(?:ss|s)en""".replace("\\\n", "")
)
_REPORT = r"(?:(?:report|preliminary|final|dictation|compte[ -]rendu|informe|laudo|befund|bericht)[ \t]+){0,3}"
# What begins a line or a sentence that goes.
_START = re.compile(
    r"(?:[*#>\[(-]+[ \t]*)?(?:"
    r"(?:(?:report|preliminarily|preliminary|finally|final|resident|attending|images?|and|study|"
    r"compte[ -]rendu|informe|laudo|befund|bericht|document)[ \t]+){0,3}"
    rf"(?:{_BY_MACHINE}[ \t]+{_DONE}|e-?signed|{_DONE}[ \t]+{_BY_MACHINE})\b|"
    rf"{_REPORT}{_DONE}(?:[ \t]*(?:/|,|&|and|y|e|et|und)[ \t]*(?:{_BY_MACHINE}[ \t]+)?{_DONE})*\.?[ \t]*"
    rf"(?:{_BY}[ \t]*:|{_BY}[ \t]+(?:(?:le|la|el|der|the)[ \t]+)?(?!{_METHOD}){_NAME}|{_BY}[ \t]*$|:)|"
    rf"{_REPORT}{_DONE}[ \t]+(?:on|at|am|le|el|em|den|date)?[ \t]*:?[ \t]*\d{{1,4}}[./-]\d|"
    rf"{_PERSON}(?:[ \t]*\([^)\n]*\))?[ \t]*(?:[:=]|-[ \t])|{_STAMP}(?:[ \t]*[:#=]|[ \t]+(?=\d{{1,4}}[./-]\d+[./-]\d))|"
    rf"(?:d|t|dd|dt|td)[ \t]*:[ \t]*\d{{1,4}}[./-]\d|"
    rf"/(?:s|es|signed)/|(?:signed|firmado|fdo|gez|assinado|signe)[ \t]*[.,]?$|{_ATTEST})",
    re.IGNORECASE,
)
# What goes to the end of its sentence wherever it begins.
_ANYWHERE = re.compile(
    rf"\b(?:{_BY_MACHINE}[ \t]+{_DONE}|e-?signed|{_DONE}[ \t]+{_BY_MACHINE}|I have personally reviewed)\b|"
    rf"\b(?-i:(?:Dictated|DICTATED|Transcribed|TRANSCRIBED|Signed|SIGNED|Firmado|FIRMADO|Assinado)(?:[ \t]+{_BY})?|"
    r"(?:Interpreted|Reviewed|Approved|Verified|Finalized) by|(?:Validado|Informado) por|(?:Befundet|Freigegeben) von|"
    rf"(?:Signe|Valide|Dicte) par|Read by:)[ \t]*:?[ \t]*(?!{_METHOD})(?={_NAME}|\d)",
    re.IGNORECASE,
)
_DATE = _either(
    r"""\d{1,4}[./-]\d{1,2}[./-]\d{1,4}|\d{8}
    \d{1,2}\.? (?:de )?[a-zA-Z]{3,10}\.?,? (?:de )?\d{2,4}
    [a-zA-Z]{3,9}\.? \d{1,2}(?:st|nd|rd|th)?,? \d{4}"""
)
_CLOCK = r"(?:a\.?m\.?|p\.?m\.?|h(?:rs|ours|oras)?|uhr)"
_TIME = _either(
    rf"""\d{{1,2}}[:h]\d{{2}}(?:[:.]\d{{2}})?(?:[ \t]*{_CLOCK})?
    \d{{1,2}}\.\d{{2}}[ \t]*{_CLOCK}|\d{{4}}[ \t]*h(?:rs|ours)"""
)
_ONLY_DATE = re.compile(
    rf"[\s,;(|-]*(?:(?:on|at|the|el|le|am|um|date|time|[A-Z][a-z]+,)[ \t]+)?(?:{_DATE}|{_TIME})"
    rf"(?:[\s,;|/-]*(?:(?:at|um|a)[ \t]+)?(?:{_DATE}|{_TIME}|[A-Z]{{2,4}}T|UTC|GMT))*[\s.,;)|]*",
    re.IGNORECASE,
)
_DATES = rf"(?i:[ \t,;-]+(?:(?:on|at|el|am|le|em|um|a|den)[ \t]+)?(?:{_DATE}|{_TIME}))*"
_NUMBER = (
    r"(?:CRM|RQE|NPI|LANR|RPPS|GMC|Lic(?:ense)?|Col(?:egiad[oa])?)\b\.?[-/ \t]*(?:[A-Z]{2})?[-/ :\t]*"
    r"\d[\d./-]*(?:[ \t]*[A-Z]{2})?"
)
_CREDENTIAL = (
    r"(?:M\.?D\.?|D\.?O\.?|M\.?B\.?B\.?S\.?|M\.?B\.?B\.?Ch\.?|Ph\.?D\.?|FRCR|FRANZCR|FRCPC|FACR|MRCP|DMRD|DNB|RRA|"
    r"P\.?A\.?-C|R\.?T\.?\(R\)|M\.?P\.?H\.?|MSc|BSc)"
)
_TOKEN = r"(?:[A-Z][\w'\u2019.-]*|_{2,}|X{4,}|de|la|del|von|van|da|dos|di|le|y|e)"
_NO_PLACE = "(?![ \\t]*(?:CHEST|THORAX|ABD|PELVI|SPINE|RIBS?|KNEE|HIP|HAND|FOOT|PA|AP|LAT|PORTABLE|OF)(?![a-z]))"
_TITLED = (
    r"(?:(?:Dr|Dra|Prof|Doctor|Doctora|Docteur|PD Dr|Priv\.-Doz|Mr|Mrs|Ms)\.?(?:[ \t]*med\.?)?|"
    rf"(?:DRA?|PROF|DOCTORA?)\b\.?{_NO_PLACE}(?:[ \t]*MED\.?)?)"  # DR: digital radiography, too
)
_ROLE = _either(
    """attending|consultant|staff|chief|resident|senior|specialist|board-?certified|diagnostic|department|division
    section|of|radiology|radiologist|fellow|physician|neuroradiologist|registrar|PGY-?\\d|facharzt|facharztin
    oberarzt|oberarztin|chefarzt|chefarztin|assistenzarzt|assistenzarztin|der|fur|radiologie|diagnostische|medic[oa]|radiolog[oa]|radiologista|medecin|radiologue
    especialista|en|em|radiodiagnostico|servicio|de|radiologia|and|imaging"""
)
_ROLES = rf"(?:{_ROLE}[ \t,.-]*)+"
_ONLY_NAME = re.compile(
    rf"[\s*/-]*(?:{_TITLED}[ \t]+(?:{_TITLED}[ \t]+)*{_TOKEN}(?:[ \t]+{_TOKEN}){{0,3}}(?:[, \t]+{_CREDENTIAL})*|"
    rf"{_TOKEN}(?:[ \t]+{_TOKEN}){{0,4}}[, \t]+{_CREDENTIAL}(?:[, \t/]+{_CREDENTIAL})*)"
    rf"(?:[ \t]*[,/;-]?[ \t]*(?i:{_ROLES}))?{_DATES}(?:[ \t,;-]+{_NUMBER})?[ \t.,;/]*",
)
_ONLY_ROLE = re.compile(
    rf"[\s*-]*(?=.*(?:radiolog|arzt|physician|resident|fellow|medic[oa]|medecin)){_ROLES}[\s:]*", re.I
)
_NO_INITIALS = (
    "(?!(?:X+|PA|AP|LAT|CT|MR|MRI|US|NG|OG|ET|LL|RL|RU|LU|IV|CV|PE|DVT|AV|SI|GI|GU|OR|ED|ER|ICU|TB|HIV|COPD|LA|RA|LV|RV)"
    r"(?![A-Za-z]))"
)
_INITIALS = re.compile(
    rf"(?:{_NO_INITIALS}[A-Z]{{2,4}}[ \t]*[/:][ \t]*(?:[a-z]{{2,4}}|{_NO_INITIALS}[A-Z]{{2,4}})|"
    rf"[a-z]{{2,3}}/[a-z]{{2,3}}(?=.*\d))(?:[ \t,;-]+(?:{_DATE}|{_TIME}|\d{{4,}}))*[ \t.]*"
)
_TRAILING_INITIALS = re.compile(rf"(?<=[.!?])[ \t]+{_NO_INITIALS}[A-Z]{{2,3}}[/:][a-z]{{2,3}}[ \t.]*$")
_REGISTER = re.compile(rf"{_NUMBER}[ \t.]*")
_NAMES = rf"{_TOKEN}(?:,?[ \t]+{_TOKEN})"
_BARE_NAME = re.compile(rf"{_NAMES}{{1,3}}{_DATES}[ \t.,]*")
_NAME_ALONE = re.compile(rf"{_NAMES}{{0,3}}(?:[, \t]+{_CREDENTIAL})*{_DATES}[ \t.,]*")  # behind "Dr. med."
_PERSON_NAME = re.compile(
    rf"(?i:{_PERSON})[ \t]*,?[ \t]+(?:[A-Z][\w'.-]+[ \t]+){{1,3}}[A-Z][\w'.-]+(?:[, \t]+{_CREDENTIAL})*[ \t.]*"
)
_TITLE_END = re.compile(r"\b(?:med|dra?|prof|sra?|[A-Z])\.$", re.IGNORECASE)
_OPEN_END = re.compile(
    r"(?:[:,]|\b(?:signed|firmado|assinado|signe|unterschrieben|by|por|par|von|regards|sincerely|atentamente|cordialement)|"
    r"gr\w+en)[ \t]*$",
    re.IGNORECASE,
)
_LONGEST = 160  # characters of a line that is nothing but a date, a name or a position
_JOINS = re.compile(r"(?:,|\b(?:and|or|the|with|of|by|to|have|has|as|in|for|y|et|und|que|de))$", re.IGNORECASE)


def without_signatures(text: str) -> tuple[str, int]:
    """-> the text without its signatures, and how many lines and sentences were taken out."""
    fixed = {text.count("\n", 0, heading.start) for heading in headings(text)}
    lines = text.split("\n")
    kept: list[str] = []
    num = i = 0
    name_follows = False
    while i < len(lines):
        line, plain = lines[i], bare(lines[i].strip())
        if not plain or (i in fixed and not _START.match(plain)):
            rest, removed, last = line, 0, i + 1
            if plain:
                rest, removed, name_follows = _from_line(line)
            kept.append(rest)
            num, i = num + removed, last
            continue
        if _is_block_line(plain) or (name_follows and len(plain) <= _LONGEST and _BARE_NAME.fullmatch(plain)):
            num, name_follows, i = num + 1, bool(_OPEN_END.search(plain)), i + 1
            continue
        last = i + 1
        if _START.match(plain):  # a sentence may have been wrapped
            while last < len(lines) and last not in fixed and _goes_on(bare(lines[last - 1]), bare(lines[last])):
                last += 1
        rest, removed, name_follows = _from_line(" ".join(part.strip() for part in lines[i:last]))
        kept += [rest] * bool(rest) if removed else lines[i:last]
        num, i = num + removed, last
    return ("\n".join(kept), num) if num else (text, 0)


def _is_block_line(line: str) -> bool:
    """A line that is nothing but a date, a name with its title, a position, a register number or initials."""
    if len(line) > _LONGEST:
        return False
    patterns = (_ONLY_DATE, _INITIALS, _REGISTER, _ONLY_ROLE, _ONLY_NAME, _PERSON_NAME)
    return any(pattern.fullmatch(line) for pattern in patterns)


def _goes_on(line: str, following: str) -> bool:
    """Whether a sentence that began in a line goes on in the next one."""
    line, following = line.strip(), following.strip()
    if not line or not following or line[-1] in ".!?:" or _START.match(following) or _is_block_line(following):
        return False
    return following[0].islower() or bool(_JOINS.search(line))


def _from_line(line: str) -> tuple[str, int, bool]:
    """-> what stays of a line, how much went, and whether a name should follow on the next line."""
    initials = _TRAILING_INITIALS.search(bare(line))
    stripped = line[: initials.start()] if initials else line
    num = int(initials is not None)
    stays: list[str] = []
    cut = ""  # the signature before this sentence
    for sentence in sentences(stripped):
        plain = bare(sentence)
        if cut and (_is_block_line(plain) or (_TITLE_END.search(cut) and _NAME_ALONE.fullmatch(plain))):
            cut = plain  # "Befundet von Dr. med." "H. Mueller"
            continue
        start = 0 if _START.match(plain) else match.start() if (match := _ANYWHERE.search(plain)) else None
        cut = "" if start is None else plain
        num += start is not None
        stays.append(sentence[:start].rstrip(" \t-,;*|(") if start is not None else sentence)
    if len(stays) > 2 and _TITLE_END.search(bare(stays[-2])) and _is_block_line(bare(" ".join(stays[-2:]))):
        stays[-2:] = [" ".join(stays[-2:])]  # "Prof. Dr. med." "K. Schmidt, Chefarzt"
    while len(stays) > 1 and _is_block_line(bare(stays[-1])) and not _ONLY_DATE.fullmatch(bare(stays[-1])):
        num += 1  # a name at the end of a report on one line
        stays.pop()
    return " ".join(part for part in stays if part) if num else line, num, bool(cut and _OPEN_END.search(cut))
