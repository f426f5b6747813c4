"""Sides as reports write them: read, and mirrored where that is certain."""

from __future__ import annotations

import pytest

from medvl.data.reports import can_mirror, findings, mirror_text, names_side

MIRRORED = [
    ("RT LUNG OPACITY. LT LUNG CLEAR.", "LT LUNG OPACITY. RT LUNG CLEAR."),
    ("L pleural effusion, R base atelectasis", "R pleural effusion, L base atelectasis"),
    ("effusion (L > R)", "effusion (R > L)"),
    ("effusions L>R", "effusions R>L"),
    ("L-sided chest tube", "R-sided chest tube"),
    ("Small effusion (L)", "Small effusion (R)"),
    ("EFFUSION ON THE RT.", "EFFUSION ON THE LT."),
    ("SMALL EFFUSION ON LT.", "SMALL EFFUSION ON RT."),
    ("STATUS POST RT. LEFT LUNG CLEAR.", "STATUS POST RT. RIGHT LUNG CLEAR."),
    ("Post RT changes in the left upper lobe", "Post RT changes in the right upper lobe"),
    ("Completed chemo-RT in May, left lung mass.", "Completed chemo-RT in May, right lung mass."),
    ("Chemo and RT, right effusion", "Chemo and RT, left effusion"),
    ("L spine and R hip films", "L spine and L hip films"),
    ("1.5 L drained from the right", "1.5 L drained from the left"),
    ("r/o pneumonia, left base", "r/o pneumonia, right base"),
    ("RUL opacity", "LUL opacity"),
    ("rll pneumonia", "lll pneumonia"),
    ("LLZ opacity and RMZ nodule", "RLZ opacity and LMZ nodule"),
    ("Clips in the RUQ.", "Clips in the LUQ."),
    ("right heart border is obscured", "left heart border is obscured"),
    ("left hilum", "right hilum"),
    ("left hemidiaphragm is elevated", "right hemidiaphragm is elevated"),
    ("left ventricular hypertrophy, left effusion", "left ventricular hypertrophy, right effusion"),
    ("Levoscoliosis of the spine", "Dextroscoliosis of the spine"),
    ("mild dextro scoliotic curvature", "mild levo scoliotic curvature"),
    ("dextrocardia", "levocardia"),
    ("RIJ catheter tip in SVC", "LIJ catheter tip in SVC"),
    ("R IJ line", "L IJ line"),
    ("pt with c/o pain r lower ribs", "pt with c/o pain l lower ribs"),
    ("worse on R than L", "worse on L than R"),
    ("L greater than R effusions", "R greater than L effusions"),
    ("R and L pleural effusions", "L and R pleural effusions"),
    ("(R>L)", "(L>R)"),
    ("Rt. pleural effusion", "Lt. pleural effusion"),
    ("Rt lung, Lt. base", "Lt lung, Rt. base"),
    ("R. lower lobe consolidation", "L. lower lobe consolidation"),
    ("left lateral ventricle", "right lateral ventricle"),
    ("PAIN RT SCAPULAR AREA AND BELOW", "PAIN LT SCAPULAR AREA AND BELOW"),
    ("opacity RT lower zone", "opacity LT lower zone"),
    ("Effusion: RT small, LT none", "Effusion: LT small, RT none"),
    ("L PICC line", "R PICC line"),
    ("Left PICC, R chest tube", "Right PICC, L chest tube"),
    ("L small to moderate pleural effusion", "R small to moderate pleural effusion"),
    ("LEFT LOWER LOBE, RT UPPER LOBE", "RIGHT LOWER LOBE, LT UPPER LOBE"),
    ("L&R effusions", "R&L effusions"),
    ("There is a small L pneumothorax.", "There is a small R pneumothorax."),
    ("Chest tube [R] in place", "Chest tube [L] in place"),
    ("Effusions R > L with L basal atelectasis", "Effusions L > R with R basal atelectasis"),
    ("effusions, R&gt;L", "effusions, L&gt;R"),
    ("LT SIDED EFFUSION WITH RT BASE ATELECTASIS", "RT SIDED EFFUSION WITH LT BASE ATELECTASIS"),
    ("LT. LOWER LOBE PNEUMONIA", "RT. LOWER LOBE PNEUMONIA"),
    ("New RT pleural effusion since the prior study", "New LT pleural effusion since the prior study"),
    ("RT-sided port, LT-sided effusion", "LT-sided port, RT-sided effusion"),
    ("NO RT PNEUMOTHORAX. STATUS POST LT LOBECTOMY.", "NO LT PNEUMOTHORAX. STATUS POST RT LOBECTOMY."),
    ("R pneumothorax s/p L lobectomy", "L pneumothorax s/p R lobectomy"),
    ("Opacity at the R base, not on the L.", "Opacity at the L base, not on the R."),
    ("Elevated R hemidiaphragm", "Elevated L hemidiaphragm"),
    ("R upper lobe nodule, L1 fracture", "L upper lobe nodule, L1 fracture"),
    ("Calcified L hilar nodes", "Calcified R hilar nodes"),
    ("LUL/LLL consolidation", "RUL/RLL consolidation"),
    ("LUZ and RUZ opacities", "RUZ and LUZ opacities"),
    ("left cardiac border, right cardiophrenic angle", "right cardiac border, left cardiophrenic angle"),
    ("left subclavian line with its tip in the right atrium", "right subclavian line with its tip in the right atrium"),
    ("left main bronchus", "right main bronchus"),
    ("left paratracheal stripe", "right paratracheal stripe"),
    ("thoracic dextroscoliosis and lumbar levoscoliosis", "thoracic levoscoliosis and lumbar dextroscoliosis"),
    ("levoconvex curvature", "dextroconvex curvature"),
    ("LLE swelling, right pleural effusion", "RLE swelling, left pleural effusion"),
    ("2 L drained. L effusion smaller.", "2 L drained. R effusion smaller."),
    ("R: effusion. L: clear.", "L: effusion. R: clear."),
    ("right atrial enlargement with right effusion", "right atrial enlargement with left effusion"),
    ("Left heart failure with a left effusion", "Left heart failure with a right effusion"),
    ("Left>right effusions", "Right>left effusions"),
    ("Effusion, left > right", "Effusion, right > left"),
    ("R > L effusions", "L > R effusions"),
    ("L>>R effusion", "R>>L effusion"),
    ("L < R", "R < L"),
    ("Effusions (R>L).", "Effusions (L>R)."),
    ("Opacities L/R bases", "Opacities R/L bases"),
    ("Small (R) effusion", "Small (L) effusion"),
    ("small (l) effusion", "small (r) effusion"),
    ("[L] base opacity", "[R] base opacity"),
    ("L. effusion", "R. effusion"),
    ("L pneumothorax.", "R pneumothorax."),
    ("Pneumothorax on L", "Pneumothorax on R"),
    ("L lower lobe collapse", "R lower lobe collapse"),
    ("L LL collapse", "R LL collapse"),
    ("L hilar mass", "R hilar mass"),
    ("R hemidiaphragm elevated", "L hemidiaphragm elevated"),
    ("R CP angle blunted", "L CP angle blunted"),
    ("R costophrenic angle", "L costophrenic angle"),
    ("R heart border obscured", "L heart border obscured"),
    ("L heart border", "R heart border"),
    ("RT HEART BORDER OBSCURED", "LT HEART BORDER OBSCURED"),
    ("RT. PLEURAL EFFUSION. LT. LUNG CLEAR.", "LT. PLEURAL EFFUSION. RT. LUNG CLEAR."),
    ("SMALL PLEURAL EFFUSION RT", "SMALL PLEURAL EFFUSION LT"),
    ("EFFUSION RT > LT", "EFFUSION LT > RT"),
    ("RT>LT EFFUSIONS", "LT>RT EFFUSIONS"),
    ("Rt>Lt effusions", "Lt>Rt effusions"),
    ("RT-SIDED EFFUSION", "LT-SIDED EFFUSION"),
    ("Rt-sided effusion", "Lt-sided effusion"),
    (
        "Patient is undergoing RT for lung cancer, right effusion",
        "Patient is undergoing RT for lung cancer, left effusion",
    ),
    ("s/p RT, left lung fibrosis", "s/p RT, right lung fibrosis"),
    ("radiotherapy (RT) to the left breast", "radiotherapy (RT) to the right breast"),
    ("RT changes in the LUL", "RT changes in the RUL"),
    ("Prior RT. Right effusion.", "Prior RT. Left effusion."),
    ("R/o pneumothorax left", "R/o pneumothorax right"),
    ("LLZ opacity", "RLZ opacity"),
    ("luz", "ruz"),
    ("RMZ nodule", "LMZ nodule"),
    ("RLL > LLL opacity", "LLL > RLL opacity"),
    ("RUL, LUL, RLL, LLL", "LUL, RUL, LLL, RLL"),
    ("right mid zone", "left mid zone"),
    ("right middle zone", "left middle zone"),
    ("right midlung", "left midlung"),
    ("right middle lung", "left middle lung"),
    ("levoscoliosis", "dextroscoliosis"),
    ("Levoconvex scoliosis", "Dextroconvex scoliosis"),
    ("dextroconvex scoliosis", "levoconvex scoliosis"),
    ("dextroposition of the heart", "levoposition of the heart"),
    ("right hilum, left hilum", "left hilum, right hilum"),
    ("right cardiophrenic angle mass", "left cardiophrenic angle mass"),
    ("left aortic arch", "right aortic arch"),
    ("right-sided aortic arch", "left-sided aortic arch"),
    ("left ventricle and right lung", "left ventricle and left lung"),
    ("right cardiac border", "left cardiac border"),
    ("right pulmonary artery", "left pulmonary artery"),
    ("left brachiocephalic vein", "right brachiocephalic vein"),
    ("RIGHT LUNG", "LEFT LUNG"),
    ("R.U.L. opacity", "L.U.L. opacity"),
    ("r.l.l. consolidation", "l.l.l. consolidation"),
    ("Rul nodule", "Lul nodule"),
    ("L 5th rib fracture", "R 5th rib fracture"),
    ("R 5th-7th ribs", "L 5th-7th ribs"),
    ("L.lower lobe", "R.lower lobe"),
    ("LSC line in place", "RSC line in place"),
    ("L SCV catheter, R PPM", "R SCV catheter, L PPM"),
    ("R lat decubitus", "L lat decubitus"),
]
NO_SIDE = [  # no word of these is a side: a flip leaves them as they are
    "The patient received RT to the mediastinum.", "L1 vertebra compression fracture", "Fracture of L1 and L2.",
    "L-spine degenerative changes", "2 L of oxygen", "R/O pneumonia", "tip in the right atrium",
    "Right ventricle and left atrium enlarged", "right and left atria", "right-sided heart failure",
    "levofloxacin given; dextrose", "B/L effusions", "right axis deviation", "300mg/l; normal",
    "lead tips in the right atrium and right ventricle", "right and left atrial enlargement", "left atrial appendage",
    "right ventricular hypertrophy", "left main coronary artery stent", "left bundle branch block",
    "Degenerative change at L4-L5.", "wedge fracture of L3", "disc space narrowing at L5/S1", "3 L nasal cannula",
    "fluid removed: 1,200 mL / 1.2 L", "after RT of the mediastinum", "RT-PCR positive", "prior RT, stable fibrosis",
    "palliative RT was given", "levothyroxine and levofloxacin", "bilateral effusions", "ER visit, E.R. film",
    "R atrial lead", "L ventricle enlarged", "LV lead, RV lead, RA lead", "RT atrium", "LT ventricular lead",
    "RT was completed in May", "after chemotherapy and RT", "s/p chemoRT", "RT planning CT", "RT-related fibrosis",
    "history of RT", "compression fracture of L1", "L1-L2 disc", "L3 vertebral body", "L-spine, T-spine",
    "R/O effusion", "500 mL vs 1 L", "2L NC", "3 L/min", "right and left ventricles", "right or left atrium",
    "right-sided heart chambers", "left cardiac chambers", "right coronary artery calcification",
    "left ventricular contour is prominent", "Bilateral", "left-handed", "turn right angle",
    "the film was left unread", "RT 50 Gy to the mediastinum", "radiation therapy (RT)",
]  # fmt: skip
NOT_CERTAIN = [  # no words are certain to be true of the flipped image
    "right middle lobe", "RML", "R.M.L. collapse", "Rml opacity", "middle lobe atelectasis", "Lingular opacity",
    "left middle lobe", "right heart", "Dr. R Smith", "opacity in the right middle lobe and left effusion",
    "RML and LLL pneumonia", "right middle and lower lobe opacities", "lingula scarring",
    "lower lobe and lingular opacities", "right-sided RT fibrosis", "posterior to the left heart",
    "consolidación en el pulmón izquierdo, left lung", "RT fibrosis", "Pneumothorax L", "L 1 vertebra",
    "middle-lobe consolidation", "RML/RLL consolidation", "lingula and left lower lobe",
    "left upper lobe lingular segment",
]  # fmt: skip


@pytest.mark.parametrize(("text", "turned"), MIRRORED)
def test_sides_are_swapped(text: str, turned: str) -> None:
    assert names_side(text) and can_mirror(text, left_right=True)
    assert mirror_text(text, left_right=True) == turned and mirror_text(turned, left_right=True) == text


@pytest.mark.parametrize("text", NO_SIDE)
def test_what_looks_like_a_side_stays(text: str) -> None:
    assert not names_side(text) and can_mirror(text, left_right=True) and mirror_text(text, left_right=True) == text
    assert all(one.side in (None, "bilateral") for one in findings(text))


@pytest.mark.parametrize("text", NOT_CERTAIN)
def test_what_cannot_be_mirrored_for_certain_stays(text: str) -> None:
    assert not can_mirror(text, left_right=True) and mirror_text(text, left_right=True) == text


def test_one_sided_lobes_are_sides() -> None:
    for text, side in (("middle lobe", "right"), ("RML", "right"), ("lingular opacity", "left"), ("lingula", "left")):
        assert names_side(text) and {one.side for one in findings(text)} == {side}
    assert can_mirror("right middle lobe", up_down=True) and not can_mirror("lingula", up_down=True)
    assert mirror_text("RUQ clips", up_down=True) == "RLQ clips"


def test_misspelt_sides_come_back_spelt_right() -> None:
    for text, turned in (("righ lung", "left lung"), ("lefft lower lobe", "right lower lobe"), ("rigth", "left")):
        assert names_side(text) and mirror_text(text, left_right=True) == turned
    assert mirror_text("R.U.L. and Rll", up_down=True) == "R.L.L. and Rul"


def test_nothing_is_uncertain_without_a_flip() -> None:
    assert can_mirror("right middle lobe") and mirror_text("right middle lobe") == "right middle lobe"
