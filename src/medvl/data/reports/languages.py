"""Whether the English rules of this package may be applied to a text."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_ENGLISH = set(
    "the a an of in on and or with is are was were there this that no not without all both right left upper lower "
    "middle lung lungs zone zones field fields lobe opacity opacities infection infected area areas consolidation "
    "effusion chest pulmonary pleural heart cardiac normal clear bilateral unilateral region regions third thirds "
    "side part entire whole lesion lesions mass nodule one two three nuclei density distributed located frontal "
    "lateral view tumor tumour bone patient evidence pneumonia pneumothorax ground glass acute for to by from at has "
    "have been be may which but also than since prior within limits seen as it atelectasis cardiomegaly scarring "
    "fracture rib ribs size spine tube line tip catheter poor effort mild mildly small large stable unchanged study "
    "spinal thickening enlarged film films lines tubes elevated elevation scoliosis".split()
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
    "radiolog sugest aere imag aort plac metastas nasogastr sutur proyect visualiz identif identific "
    "signific vascul torac relev valvul diagnost dorsolumb hiat atrap lev dat falt aport posicion estabil "
    "calcificacion suturas alambr esternotom inferiore superiore versamento "
    # French
    "le les poumon poumons sans avec des il lobe epanchement pneumopathie aucune aucun".split()
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
# Words, whole or cut, that no English report has: Spanish and Portuguese, French, German and Dutch, Italian, others.
_SPANISH = (
    r"(?:hemi|hemo|neumo|pneumo|hidro)?torax adenopati agud[oa]s? alteracion(?:es)? apreci(?:a|an|ad\w*)? artrosis "
    r"atelectasias atrap(?:amient\w*)? bronconeumoni\w* bronquiectasi\w* calid(?:ad)? cardiac[oa] cardiotorac\w* "
    r"catet cerclaj\w* cif(?:o|oescolio)sis cirugia? condens condensacion(?:es)? consolidacion(?:es)? contraindiqu "
    r"corazon costofren\w* cuerpo? degenerativos? densid(?:ad\w*)? dentr[oa]? derram\w* descart\w* diafragm\w* "
    r"difus[oa]?s? edad endotraqueal enfermed(?:ad\w*)? enfisem\w* engros\w* ensanch\w* epoc escas[oa]?s? "
    r"escolio(?:sis|t\w*) espondilo\w* esternotomi\w* estudi(?:o|os)? exploracion fecha? fractur ginecomasti\w* "
    r"granulom hallazg\w* hemidiafragm\w* herni hiliar\w* hiper?insufl\w* hipoventilacion imagenes infecci "
    r"infradiafragm\w* inspiracion insuficien\w* interpretacion intersticial\w* lesiones liger[oa]s? lobulos? "
    r"mamari\w* marcapas\w* mediastin[oi]c?[oa]? mejori\w* nasogastric[oa] neumo[a-z]+ neumoni\w* nodul[oa]s nodulo "
    r"objetiv[ao]?n? observan? opacidad\w* osteosintesis pacientes? paquipleur\w* parenquim\w* patolog pequen\w* "
    r"perihili\w* pinzamient\w* protesis proyeccion(?:es)? pulmones radiograf\w* relacion respiratori[oa]?s? "
    r"retroesternal secuel\w* siluet\w* sonda? sospech\w* sugier\w* toracic[oa]?s? traqueo\w* visualiza"
).split()
_OTHER_FINDINGS = re.compile(
    rf"\b(?:{'|'.join(_SPANISH)}|"
    r"pas d(?:e|\W)|anomalies? pleuro\w*|cardiaque|opacites?|epanchements?|poumons?|thoracique|"
    r"\w*erguss\w*|verschattung\w*|lungen\w*|oberlappen\w*|unterlappen\w*|herz(?:gross\w*|schatten)|beidseits|"
    r"pleuravocht|longen|addensament\w*|versament\w*|polmon\w*|"
    r"pulmao|pulmoes|plevral|efuzyon|akciger\w*|efusi|paru|plucn\w*|pluc)(?![a-z])"
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
