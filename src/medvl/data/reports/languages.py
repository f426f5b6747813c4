"""Whether the English rules of this package may be applied to a text."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_ENGLISH = set(
    "the a an of in on and or with is are was were there this that no not without all both right left upper "
    "lower middle lung lungs zone zones field fields lobe opacity opacities infection infected area areas "
    "consolidation effusion chest pulmonary pleural heart cardiac normal clear bilateral unilateral region "
    "regions third thirds side part entire whole lesion lesions mass nodule one two three nuclei density "
    "distributed located frontal lateral view tumor tumour bone patient evidence pneumonia pneumothorax ground "
    "glass acute".split()
)
_OTHER = set(
    # German, Dutch
    "der die das und lunge lungen ohne mit im beidseits nicht keine kein oberlappen unterlappen erguss geen het "
    "een van zonder longen herz rundherd herzgrosse verschattung "
    # Spanish, Portuguese, Italian, Catalan, whole words and the stems of PadChest's reports
    "el la los las pulmon pulmones sin con del sem com dos nos senza di pulmao nel lobo polmone polmoni derram "
    "derrame engros engrosamient hallazg hallazgos patolog patologic cambi cronic pinzamient costofren "
    "radiograf radiografia infiltr cardiomegali elongacion aument aumento atelectasi laminar neumoni neumotorax "
    "desviacion traque hemidiafragm pulmonar pleur silueta siluet senos indice cardiotorac callos fractur "
    "costal costals callo vertic hernia hiato amputacion signos sign pie ambos ambas tubo pulmonares sever leve "
    "calcificacion suturas alambr esternotom inferiore superiore versamento "
    # French
    "le les poumon poumons sans avec des et il lobe epanchement pneumopathie aucune aucun".split()
) - {"lobe", "hernia", "sign", "pie", "costal", "die", "sever", "vertic", "los", "laminar", "des"}
# Sides, on stems: endings, compounds ("linksbasal") and the cut words of a stemmed report ("izquierd") are theirs too.
_OTHER_SIDES = re.compile(
    r"\b(?:links\w*|linke[rnms]?|rechts\w*|rechte[rnms]?(?:long|zijdig\w*)?|"  # German, Dutch
    r"gauch\w*|droite?s?|"  # French
    r"izquierd\w*|izqd?[oa]?|izd[oa]s?|derech\w*|dch[oa]s?|lsd|lsi|lii|"
    r"esquerr\w*|esquerd\w*|direit\w*|dereit\w*|"  # Spanish, Catalan, Portuguese
    r"sinistr(?:[oaie]|orsa)?|destr[oaie]?|"  # Italian
    r"stang(?:a|i|ul|ului)?|dreapt\w*|dreptul?|"  # Romanian
    r"vanster\w*|hoger|hogra|hogersidig\w*|venstre\w*|hojre\w*|hoyre\w*|hjre\w*|hyre\w*|"  # Swedish, Danish, Norwegian
    r"lew(?:y|a|e|ej|ego|ym|emu|ostronn\w*)|praw(?:y|a|e|ej|ego|ym|emu|ostronn\w*)|"  # Polish
    r"vlevo|vpravo|levostrann\w*|pravostrann\w*|lev(?:eho|em|emu|ych)|prav(?:eho|em|emu|ych|a|e|y)|"  # Czech, Slovak
    r"vasem\w+|vasen|oikea\w*|oikei\w*|"  # Finnish
    r"bal\s+(?:oldal\w*|tudo\w*)|jobb\s?oldal\w*|baloldal\w*|"  # Hungarian
    r"(?:sag|sol)(?:da|\s+(?:akciger|plevra|hemitoraks|ust|alt|hiler)\w*)|"  # Turkish
    r"kiri|kanan)\b"  # Indonesian, Malay
)
# Words, whole or cut, that no English report has.
_OTHER_FINDINGS = re.compile(
    r"\b(?:derram\w*|hallazg\w*|pinzamient\w*|engros\w*|costofren\w*|cardiotorac\w*|hemidiafragm\w*|neumoni\w*|"
    r"(?:hemi|neumo|hidro)?torax|toracic[oa]?s?|radiograf\w*|patolog|corazon|mediastin[oi]c?[oa]?|condens|"  # Spanish
    r"pulmones|"
    r"epanchements?|poumons?|thoracique|"  # French
    r"\w*erguss\w*|verschattung\w*|lungen\w*|oberlappen\w*|unterlappen\w*|herz(?:gross\w*|schatten)|beidseits|"
    r"pleuravocht|longen|versament\w*|polmon\w*|pulmao|pulmoes|plevral|efuzyon|akciger\w*|efusi|paru|plucn\w*|pluc)"
    r"(?![a-z])"
)
_WORD = re.compile(r"[a-z]+")


@lru_cache(maxsize=1 << 14)
def is_english(text: str) -> bool:
    """Whether the rules for English words may be applied.

    Latin letters, no side or finding of another European language (whole, in a compound, or as the stem of a stemmed
    report), and more words that are typical of English reports than of others. An empty text is English: there is
    nothing to get wrong.
    """
    if text.isascii():
        plain = text.lower()
    else:
        letters = [c for c in text if c.isalpha()]
        if sum(c.isascii() for c in letters) < 0.9 * len(letters):
            return False
        plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()  # accents taken off
    if _OTHER_SIDES.search(plain) or _OTHER_FINDINGS.search(plain):
        return False
    words = _WORD.findall(plain)
    num_other = sum(word in _OTHER for word in words)
    return num_other == 0 or num_other < sum(word in _ENGLISH for word in words)
