"""The names of radiographic findings, apart from the words that modify them.

A term is the head word of a finding ("small left pleural EFFUSION"), a fixed phrase where the head alone says nothing
("airspace disease"), or a predicate where a sentence has no noun ("the heart is ENLARGED"). Names that end as findings
do (-oma, -itis, -osis, -megaly, ...) belong to it without being listed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Head words; plurals are made below.
_NOUNS = """
    abscess adenopathy aneurysm anterolisthesis asbestosis ascites aspiration atelectasis barotrauma bleb blunting
    bronchiectasis bronchogram bronchopneumonia bulla calcification callus cancer capping carcinoma cardiomegaly
    cavitation cavity cephalization collapse collection congestion consolidation contusion crowding curvature cyst
    deformity degeneration demineralization density destruction deviation dextrocardia dextrocurvature dilatation
    dilation dislocation displacement dissection distension distention ectasia edema effusion elevation emphysema
    empyema engorgement enlargement erosion eventration exudate fibrosis fissuring flattening fluid focus fracture
    fullness goiter goitre granuloma granulomata haematoma haemorrhage haemothorax hematoma hemorrhage hemothorax
    hernia herniation honeycombing hydropneumothorax hydrothorax hyperaeration hyperemia hyperexpansion
    hyperinflated hyperinflation hyperlucency hypertrophy hypoaeration hypoexpansion hypoinflation hypoventilation
    infarct infarction infection infiltrate infiltration inflammation injury invasion irregularity kyphoscoliosis
    kyphosis lesion levocardia levocurvature listhesis lucency lymphadenopathy lymphangitis lymphoma malignancy mass
    metastasis microcalcification micronodule mineralization mottling narrowing neoplasm nodularity nodule
    obscuration obstruction occlusion oedema opacification opacity osteoarthritis osteochondroma osteolysis
    osteopenia osteophyte osteoporosis osteosarcoma overexpansion overinflation overload perforation plaque plethora
    pleurisy pneumatocele pneumomediastinum pneumonia pneumonitis pneumopericardium pneumoperitoneum pneumothorax
    polyp prominence pseudonodule pseudotumor ptx redistribution reticulation retrolisthesis rupture sarcoid
    sarcoidosis scar scarring sclerosis scoliosis shadowing shift silhouetting spondylolisthesis spondylosis spur
    spurring stenosis stranding subluxation swelling tenting tethering thickening thrombus tortuosity tuberculosis
    tumor tumour uncoiling underinflation unfolding widening
"""
_DEVICES = """
    aicd cannula catheter clip defibrillator drain electrode icd implant mediport pacemaker pacer picc portacath
    prosthesis stent stimulator tube
"""
_PLURALS = {
    "bulla": "bullae", "metastasis": "metastases", "pneumothorax": "pneumothoraces", "hemothorax": "hemothoraces",
    "haemothorax": "haemothoraces", "hydropneumothorax": "hydropneumothoraces", "focus": "foci", "callus": "calluses",
    "thrombus": "thrombi", "scoliosis": "scolioses", "bronchiectasis": "bronchiectases", "stenosis": "stenoses",
    "prosthesis": "prostheses", "cavity": "cavities", "opacity": "opacities", "density": "densities", "deformity":
    "deformities", "lucency": "lucencies", "malignancy": "malignancies", "injury": "injuries", "adenopathy":
    "adenopathies", "hyperlucency": "hyperlucencies", "atelectasis": "atelectases", "mass": "masses", "abscess":
    "abscesses", "pneumonia": "pneumonias", "nodularity": "nodularities", "lymphadenopathy": "lymphadenopathies",
    "tortuosity": "tortuosities",
}  # fmt: skip

# A head that says nothing by itself keeps the word that names the organ or the kind before it.
_GENERIC = {
    "abnormality": "abnormality", "abnormalities": "abnormality", "disease": "disease", "diseases": "disease",
    "process": "process", "processes": "process", "changes": "change", "change": "change", "findings": "finding",
    "finding": "finding", "trauma": "trauma",
}  # fmt: skip
_KINDS = set(
    "airspace alveolar cardiopulmonary cardiac pulmonary pleural parenchymal lung osseous bony skeletal "
    "mediastinal hilar interstitial granulomatous degenerative emphysematous postsurgical postoperative "
    "surgical post-surgical fibrotic cystic obstructive disc disk joint metastatic infectious infiltrative "
    "inflammatory malignant neoplastic bullous bronchial airway airways vascular cardiovascular intrathoracic "
    "thoracic bone chest arthritic atelectatic atherosclerotic spondylitic spondylotic hypertrophic copd "
    "reticular reticulonodular emphysemic postinflammatory radiation fibrocystic endplate discogenic aortic "
    "valvular heart soft-tissue cicatricial postradiation post-operative chronic-lung infective sclerotic "
    "lymphangitic septal consolidative".split()
)
# A finding only in these words; between them white space or a hyphen.
_PHRASES = {
    "air space": "airspace", "foreign body": "foreign body", "foreign bodies": "foreign body",
    "volume loss": "volume loss", "loss of volume": "volume loss", "low lung volumes": "low lung volumes",
    "low volumes": "low lung volumes",
    "reduced lung volumes": "low lung volumes", "decreased lung volumes": "low lung volumes",
    "small lung volumes": "low lung volumes", "low inspiratory volumes": "low lung volumes",
    "free air": "free air", "free intraperitoneal air": "free air", "free gas": "free air",
    "subdiaphragmatic air": "free air", "subcutaneous air": "subcutaneous air",
    "air bronchogram": "bronchogram", "air bronchograms": "bronchogram",
    "interstitial markings": "interstitial markings", "bronchovascular markings": "bronchovascular markings",
    "bronchial markings": "bronchial markings", "vascular markings": "vascular markings",
    "pacing leads": "pacemaker leads", "pacer leads": "pacemaker leads", "pacemaker leads": "pacemaker leads",
    "lung markings": "lung markings", "pulmonary markings": "lung markings", "reticular markings":
    "interstitial markings", "air trapping": "air trapping", "kerley b lines": "kerley b lines",
    "kerley lines": "kerley b lines", "septal lines": "kerley b lines", "central line": "central line",
    "central lines": "central line", "central venous line": "central line", "picc line": "central line",
    "venous line": "central line", "jugular line": "central line", "subclavian line": "central line",
    "ij line": "central line", "sternotomy wires": "sternotomy wires", "sternal wires": "sternotomy wires",
    "heart failure": "heart failure", "cardiac failure": "heart failure", "air fluid level": "air-fluid level",
    "air fluid levels": "air-fluid level", "pleural line": "", "mass effect": "mass effect",
    "pulmonary embolism": "embolism", "pulmonary embolus": "embolism", "fluid overload": "overload",
    "volume overload": "overload", "lung cancer": "cancer", "breast cancer": "", "soft tissue": "",
    "fluid level": "air-fluid level", "fluid levels": "air-fluid level", "in lead": "", "lead to": "",
    "leads to": "", "copd": "copd", "chf": "heart failure", "ards": "ards", "tb": "tuberculosis", "ggo": "ggo",
    "ground glass": "ground glass", "tree in bud": "tree-in-bud", "mucus plug": "mucus plug",
    "mucus plugging": "mucus plug", "mucous plugging": "mucus plug", "nipple shadow": "nipple shadow",
    "nipple shadows": "nipple shadow", "intact": "",
}  # fmt: skip
# Said of an organ: a finding where the clause has no noun that is one.
_PREDICATES = """
    atelectatic atherosclerotic blunted bulging calcified collapsed congested consolidated deformed degenerated
    demineralized deviated dextroscoliotic dilated dislocated displaced distended ectatic elevated emphysematous
    engorged enlarged eroded flattened fractured hyperaerated hyperexpanded hyperinflated hyperlucent hypoaerated
    hypoinflated hypoventilated indistinct kyphotic levoscoliotic narrowed obscured opacified osteopenic
    overinflated prominent retracted ruptured sclerotic scoliotic silhouetted thickened tortuous uncoiled
    underaerated underinflated unfolded whiteout widened
"""
_ENDING = re.compile(
    r"(?:[a-z]{3,}(?:oma|omas|omata|itis|osis|oses|iasis|megaly|ectasis|ectasia|ectases|pathy|pathies|malacia|plasia|"
    r"penia|cele|celes)|(?:hydro|hemo|haemo|pyo|chylo|pneumo|fibro|hydropneumo|hemopneumo)thora(?:x|ces))"
)
_NO_FINDING = set(
    "diagnosis diagnoses prognosis anastomosis stroma coma soma stoma aroma tracheostoma metamorphosis hypnosis "
    "homeostasis apoptosis neuropathy osteopathy homeopathy sympathy psychosis analgesia anastomoses colostoma".split()
)

# Canonical words, for comparing two texts; other plurals lose their s.
_SAME = {
    "oedema": "edema", "tumour": "tumor", "ptx": "pneumothorax", "goitre": "goiter", "haematoma": "hematoma",
    "opacification": "opacity", "opacified": "opacity", "opacifications": "opacity", "enlarged": "enlargement",
    "effusion": "effusion", "collapsed": "collapse", "consolidated": "consolidation", "scar": "scarring",
    "elevated": "elevation", "widened": "widening", "thickened": "thickening", "blunted": "blunting",
    "hyperinflated": "hyperinflation", "hyperexpanded": "hyperinflation", "hyperexpansion": "hyperinflation",
    "infiltration": "infiltrate", "haemothorax": "hemothorax", "haemorrhage": "hemorrhage", "fractured": "fracture",
    "calcified": "calcification", "granulomata": "granuloma", "air space": "airspace",
}  # fmt: skip


def _all_nouns() -> dict[str, str]:
    """Noun as written -> singular."""
    nouns = (_NOUNS + _DEVICES).split()
    return {word: word for word in nouns} | {_PLURALS.get(word, f"{word}s"): word for word in nouns}


_SINGULAR = _all_nouns()
PREDICATES = frozenset(_PREDICATES.split())
FINDING_WORDS = frozenset(_SINGULAR) | PREDICATES
# A generic head beside one of another kind is no finding of its own: "mass lesion", "fracture deformity".
_WEAK = {
    "lesion",
    "deformity",
    "opacity",
    "density",
    "collection",
    "disease",
    "process",
    "change",
    "abnormality",
    "focus",
}
# No side is carried to these from a finding named before them.
NO_SIDE = frozenset(
    "cardiomegaly scoliosis kyphosis kyphoscoliosis osteopenia osteoporosis pneumomediastinum pneumoperitoneum "
    "hyperinflation emphysema edema oedema congestion spondylosis copd hernia tortuosity overload enlarged "
    "tortuous hyperinflated hyperexpanded hyperexpansion osteopenic demineralization aneurysm pacemaker".split()
)


def has_finding_ending(word: str) -> bool:
    """Whether a word in lower case ends as the names of findings do."""
    return word not in _NO_FINDING and len(word) > 5 and _ENDING.fullmatch(word) is not None


def canonical_term(term: str) -> str:
    """One word for the spellings and numbers of a term: "opacities" and "opacity", "oedema" and "edema"."""
    words = [_SAME.get(word, word) for word in (_singular(word) for word in term.split())]
    joined = " ".join(words)
    return _PHRASES.get(joined) or _SAME.get(joined, joined)


def _singular(word: str) -> str:
    if word in _SINGULAR:
        return _SINGULAR[word]
    if word in _GENERIC:
        return _GENERIC[word]
    return re.sub(r"omata$", "oma", re.sub(r"oses$", "osis", re.sub(r"(?<=oma)s$", "", word)))


@dataclass(frozen=True, slots=True)
class Term:
    """A finding named in a list of words: `words[start:end]`."""

    name: str  # as written, in small letters; "airspace disease" where the head alone says nothing
    start: int
    end: int
    is_predicate: bool = False  # "enlarged": said of an organ


def find_terms(words: Sequence[str]) -> tuple[Term, ...]:
    """The findings that a part of a clause names, in its order; predicates only where it has no noun that is one."""
    nouns: list[Term] = []
    predicates: list[Term] = []
    i = 0
    while i < len(words):
        name, length = _term_at(words, i)
        if name in PREDICATES:
            predicates.append(Term(name, i, i + length, is_predicate=True))
        elif name:
            nouns.append(Term(name, i, i + length))
        i += length
    nouns = _merged(words, nouns)
    return tuple(nouns or predicates[:1])


def _term_at(words: Sequence[str], i: int) -> tuple[str, int]:
    """(name, number of words) of the finding that begins at word i; ("", number of words to pass over) if none does."""
    word = words[i]
    if word in _PHRASE_STARTS:
        for length in range(min(4, len(words) - i), 0, -1):
            phrase = " ".join(words[i : i + length])
            if phrase in _PHRASES:
                if phrase in ("air space",):
                    break
                return (phrase if _PHRASES[phrase] else ""), length
    following = words[i + 1] if i + 1 < len(words) else ""
    if following in _NOT_BEFORE:
        return "", 1
    if word in _GENERIC:
        return _generic(words, i), 1
    if word in FINDING_WORDS or has_finding_ending(word):
        return word, 1
    return "", 1


def _generic(words: Sequence[str], i: int) -> str:
    word, before = words[i], words[i - 1] if i else ""
    if before == "space" and i > 1 and words[i - 2] == "air":
        return f"air space {word}"
    if before in _KINDS:
        return f"{before} {word}"
    if _GENERIC[word] == "change":
        return ""
    if _GENERIC[word] == "finding":
        return word if before in _ABNORMAL else ""
    return word


def _merged(words: Sequence[str], nouns: Sequence[Term]) -> list[Term]:
    """One finding for nouns side by side ("mass lesion") and for "focus of consolidation"."""
    result: list[Term] = []
    for noun in nouns:
        last = result[-1] if result else None
        if last is not None and last.end == noun.start:
            weak = last.name not in _KIND_NAMES and canonical_term(noun.name).split()[-1] in _WEAK
            result[-1] = Term(last.name if weak else noun.name, last.start, noun.end)
        elif (
            last is not None
            and canonical_term(last.name) in _PARTITIVE
            and list(words[last.end : noun.start])[:1] == ["of"]
        ):
            result[-1] = Term(noun.name, noun.start, noun.end)
        else:
            result.append(noun)
    return result


_ABNORMAL = {"acute", "abnormal", "significant", "suspicious", "positive", "active", "focal"}
_PHRASE_STARTS = {phrase.split()[0] for phrase in _PHRASES}
_KIND_NAMES = {"ground glass"}  # beside a noun only its kind
_PARTITIVE = {"focus", "collection", "deformity", "density", "lesion"}
# Before these a name of a finding is a modifier: "mass-like", "catheter tip".
_NOT_BEFORE = set(
    "like sized formation related type shaped surgery resection screening placement removal cell cells".split()
)
