"""The names of radiographic findings, apart from the words that modify them.

A term is the head word of a finding ("small left pleural EFFUSION"), a fixed phrase where the head alone says nothing
("airspace disease"), or a predicate where a sentence has no noun ("the heart is ENLARGED"). Names that end as findings
do (-oma, -itis, -osis, -megaly, ...) belong to it without being listed.
"""

from __future__ import annotations

import re

# Head words; plurals are made below.
_NOUNS = """
    abscess adenopathy aneurysm asbestosis ascites aspiration atelectasis barotrauma bleb bronchiectasis bulla
    calcification cancer carcinoma cardiomegaly cavitation cavity collapse collection compression congestion
    consolidation contusion cyst deformity degeneration demineralization density deviation dilatation dilation disc
    dislocation displacement dissection distention distension ectasia edema oedema effusion elevation emphysema empyema
    enlargement eventration exudate fibrosis fissuring flattening focus foreign-body fracture fullness goiter goitre
    granuloma granulomata hematoma haematoma hemorrhage haemorrhage hemothorax haemothorax hernia herniation
    hydropneumothorax hydrothorax hyperaeration hyperexpansion hyperinflation hyperlucency hypertrophy hypoaeration
    hypoexpansion hypoinflation infarct infarction infection infiltrate infiltration inflammation injury invasion
    kyphoscoliosis kyphosis lesion lucency lymphadenopathy lymphangitis malignancy mass metastasis micronodule
    mineralization neoplasm nodularity nodule obscuration obstruction occlusion opacification opacity osteoarthritis
    osteolysis osteopenia osteophyte osteoporosis overexpansion overinflation overload perforation
    plaque pleurisy pneumatocele pneumomediastinum pneumonia pneumopericardium pneumoperitoneum pneumothorax polyp
    prominence pseudonodule pseudotumor reticulation sarcoid sarcoidosis scar scarring sclerosis scoliosis
    shadowing silhouetting spondylosis spur stenosis stranding subluxation swelling thickening thrombus tortuosity
    tuberculosis tumor tumour unfolding uncoiling widening narrowing bronchopneumonia bronchogram hyperinflated blunting
    crowding prominence redistribution tenting tethering volume-loss honeycombing interstitial-markings
    lymphoma pneumonitis callus erosion levocurvature dextrocurvature curvature spondylolisthesis osteochondroma
    osteosarcoma hypoventilation underinflation rupture plethora cephalization engorgement hyperemia shift mottling
    fluid ptx dextrocardia levocardia microcalcification
"""
_DEVICES = """
    catheter tube pacemaker pacer stent clip drain electrode lead prosthesis defibrillator icd aicd picc portacath
    mediport implant cannula
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
    "low volumes": "low lung volumes", "lower lung volumes": "low lung volumes",
    "reduced lung volumes": "low lung volumes", "decreased lung volumes": "low lung volumes",
    "small lung volumes": "low lung volumes", "low inspiratory volumes": "low lung volumes",
    "free air": "free air", "free intraperitoneal air": "free air", "free gas": "free air",
    "subdiaphragmatic air": "free air", "subcutaneous air": "subcutaneous air",
    "air bronchogram": "bronchogram", "air bronchograms": "bronchogram",
    "interstitial markings": "interstitial markings", "bronchovascular markings": "bronchovascular markings",
    "bronchial markings": "bronchial markings", "vascular markings": "vascular markings",
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
    "nipple shadows": "nipple shadow", "apical cap": "capping", "apical capping": "capping", "intact": "",
}  # fmt: skip
# Said of an organ: a finding where the clause has no noun that is one.
_PREDICATES = """
    enlarged elevated blunted tortuous ectatic hyperinflated hyperexpanded overinflated hypoinflated underinflated
    hyperaerated hyperlucent widened thickened calcified dilated congested flattened obscured deviated displaced
    unfolded uncoiled consolidated opacified collapsed fractured distended prominent engorged atelectatic
    emphysematous osteopenic demineralized scoliotic kyphotic levoscoliotic dextroscoliotic narrowed indistinct
    silhouetted degenerated ruptured dislocated eroded bulging whiteout
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
    nouns = [word for word in (_NOUNS + _DEVICES).split() if "-" not in word]
    return {word: word for word in nouns} | {_PLURALS.get(word, f"{word}s"): word for word in nouns}


_SINGULAR = _all_nouns()
DEVICES = frozenset(word for word in _SINGULAR if _SINGULAR[word] in _DEVICES.split())
GENERIC = frozenset(_GENERIC)
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
