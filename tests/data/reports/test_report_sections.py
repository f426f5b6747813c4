"""Reports as typed: sections, cleaning, sentences."""

from __future__ import annotations

import csv
import html
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvl.data.reports.cleaning import count_headers, count_list_numbers, count_marks, report_text
from medvl.data.reports.headings import section_name
from medvl.data.reports.sections import Sections, parse_sections
from medvl.data.reports.sentences import num_words, sentences

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
 
 INDICATION:  ___F with new cough.  // pneumonia?
 
 TECHNIQUE:  Chest PA and lateral
 
 COMPARISON:  ___
 
 FINDINGS: 
 
 There is no focal consolidation, pleural effusion
 or pneumothorax.
 LUNGS: Clear.
 T8: mild loss of height.
 
 IMPRESSION: 
 
 1.  No acute process, compared to ___.
 2.  Nodule of
 5. mm in the left apex
 3.  Discussed with Dr. ___ at 3 p.m. on ___.
 
 NOTIFICATION:   The findings were called to Dr. ___.
"""


def test_a_usual_report() -> None:
    found = parse_sections(REPORT)
    assert found.headers == (
        "final report", "examination", "indication", "technique", "comparison", "findings", "impression",
        "notification",
    )  # fmt: skip
    assert found.examination == "CHEST (PA AND LAT)" and found.technique == "Chest PA and lateral"
    assert found.indication == "___F with new cough.  // pneumonia?" and found.comparison == "___"
    assert found.findings.startswith("There is no focal") and found.findings.endswith("T8: mild loss of height.")
    assert "LUNGS: Clear." in found.findings and found.impression.endswith("on ___.")
    assert found.other == {"notification": "The findings were called to Dr. ___."} and found.last_paragraph == ""
    clean = report_text(found)
    assert clean.impression == (
        "No acute process, compared to. Nodule of 5. mm in the left apex. Discussed with Dr. at 3 p.m. on."
    )
    assert clean.findings == (
        "There is no focal consolidation, pleural effusion or pneumothorax. LUNGS: Clear. T8: mild loss of height."
    )
    assert clean.text == f"{clean.impression} {clean.findings}" and clean.used == ("impression", "findings")
    assert (clean.num_marks, clean.num_list_numbers, clean.num_headers) == (3, 3, 0)
    assert clean.num_words == len(clean.text.split()) and not (clean.cut or clean.empty or clean.too_short)


def test_the_last_section_of_a_name_counts_but_not_an_empty_one() -> None:
    text = (
        " WET READ: ___ 8:15 AM\n  Effusion. \n ______________________\n"
        " FINAL REPORT\n PROVISIONAL FINDINGS IMPRESSION (PFI):  Perhaps.\n IMPRESSION:  Surely.\n FINDINGS:  One.\n"
        " FINDINGS:  Two.\n FINDINGS: \n"
    )
    found = parse_sections(text)
    assert (found.impression, found.findings, found.num_replaced) == ("Surely.", "Two.", 2)
    assert found.other["wet read"].startswith("___ 8:15 AM\n  Effusion.")


NAMES = {
    "impression": "IMPRESSSION, IMRESSION, Conclusions, FINDINGS/IMPRESSION, FINDINGS AND IMPRESSION",
    "findings": "FINDNGS, PA AND LATERAL VIEWS OF THE CHEST, CHEST| SINGLE AP PORTABLE VIEW, CHEST, CT CHEST",
    "indication": "REASON FOR EXAM, CLINICAL HISTORY",
    "comparison": "COMPARISON EXAMINATION, COMPARISION",
    "technique": "PROCEDURE",
    "examination": "EXAM",
    "compression fractures": "COMPRESSION FRACTURES",  # like IMPRESSION, and none
    "recommendation(s)": "RECOMMENDATION(S)",
    "wet read": "WET READ",
    None: "HEART AND MEDIASTINUM, LINES AND TUBES",
}


def test_names_of_headers() -> None:
    for name, headers in NAMES.items():
        names = {header: section_name(header.replace("|", ",")) for header in headers.split(", ")}
        assert names == dict.fromkeys(names, name)


USUAL = " INDICATION:  Cough.\n \n COMPARISON:  ___.\n \n The lungs are clear.\n \n No effusion.\n"
NO_REPORT = "A man with fever. Clinical details: cough. Imaging examination: a patch on the left."


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        *((f"{name}The lungs are clear.", {"impression": "The lungs are clear."})
          for name in ("Impression and findings:\n", "Findings/Impression: ", "Findings & impression:\n")),
        ("FINDINGS: Clear.\r\n\r\nIMPRESSION:\r\nNormal.\r\n", {"findings": "Clear.", "impression": "Normal."}),
        ("FINDINGS\n Clear lungs.\n Impression:Normal.\n", {"findings": "Clear lungs.", "impression": "Normal."}),
        (" FINDINGS: The following\n findings: none. At 10:30 AM\n PLEASE NOTE: the film is old.\n",
         {"findings": "The following\n findings: none. At 10:30 AM", "other": {"please note": "the film is old."}}),
        ("CLINICAL HISTORY: Cough. FINDINGS/IMPRESSION: Clear. Heart: normal.",
         {"indication": "Cough.", "impression": "Clear. Heart: normal.", "findings": ""}),
        ("FINDINGS: Clear.\n Compared IMPRESSION: none", {"impression": ""}),  # it has its line breaks
        ("Findings: clear. impression: mine", {"impression": ""}),  # it has its capitals
        ("the findings: none", {"headers": ()}), (NO_REPORT, {"headers": (), "whole": NO_REPORT}),
        (USUAL, {"last_paragraph": "The lungs are clear.\n\nNo effusion.", "findings": ""}),
        (f"{USUAL} RECOMMENDATION: CT.\n \n Soon.\n", {"last_paragraph": "The lungs are clear.\n\nNo effusion."}),
        ("                 FINAL REPORT\n Chest is clear.", {"last_paragraph": "Chest is clear."}),
        (" FINAL REPORT\n PORTABLE CHEST\n \n Clear.\n", {"last_paragraph": "Clear."}),
        (" INDICATION:  Cough and fever.\n", {"last_paragraph": ""}),
        (" IMPRESSION:  Normal.\n \n Signed.\n", {"last_paragraph": ""}),
        ("Findings: None. Impression: 1. Stable.", {"findings": ""}),
        ("Findings: See impression. Impression: Effusion.", {"findings": ""}),
        *((f"FINDINGS: {absent} IMPRESSION: Normal.", {"findings": ""})
          for absent in ("None available.", "Not given", "UNAVAILABLE.")),
        ("HISTORY: Diagnosis: cancer. FINDINGS: Clear. IMPRESSION: No metastasis.",
         {"impression": "No metastasis.", "findings": "Clear."}),
        ("FINDINGS: Clear.\nINTERPRETATION: Nothing new.\nCONCLUSION: Normal.", {"impression": "Normal."}),
        ("<findings>Clear.</findings><TEXT Label='IMPRESSION'>Normal.</TEXT>",
         {"findings": "Clear.", "impression": "Normal."}),
        ("\ufeffFINDINGS: Clear.\nIMPRESSION: No change.",  # a byte order mark
         {"findings": "Clear.", "impression": "No change.", "headers": ("findings", "impression")}),
        ("\ufeffThe lungs are clear.", {"last_paragraph": "The lungs are clear."}),
        ("ADDENDUM: Nodule seen.\n\nFINAL REPORT\nFINDINGS: Clear lungs.\nIMPRESSION: Normal.",
         {"addendum": "Nodule seen.", "findings": "Clear lungs.", "impression": "Normal."}),
        ("ADDENDUM BEGINS\nNodule seen.\nADDENDUM ENDS\n\nFINDINGS: Clear.\n***Final report***",
         {"addendum": "Nodule seen.", "findings": "Clear."}),
        ("FINDINGS:\nPA view of the chest\n\nIMPRESSION: Normal.", {"findings": "PA view of the chest"}),
    ],
)  # fmt: skip
def test_sections_of_a_report(report: str, expected: dict[str, object]) -> None:
    sections = parse_sections(report)
    assert {name: getattr(sections, name) for name in expected} == expected


def test_a_report_whose_line_breaks_were_lost() -> None:
    one_line = " ".join(REPORT.split())
    found = parse_sections(one_line)
    assert found.findings.startswith("There is no focal") and found.findings.endswith("T8: mild loss of height.")
    assert found.impression.startswith("1. No acute process") and found.comparison == "___"
    assert found.indication == "___F with new cough. // pneumonia?"


def test_small_headers() -> None:
    small = "indication: cough. findings: the lungs are clear. the following findings: none. impression: normal chest."
    for text in (small, small.replace(". findings", ".\nfindings").replace(". impression", "\n\n impression ")):
        found = parse_sections(text)
        assert found.indication.startswith("cough") and found.impression == "normal chest."
        assert found.findings.startswith("the lungs are clear. the following findings: none")
        assert count_headers(text) == 3
    assert count_headers("the findings: none") == 0


def test_the_text_of_a_last_paragraph() -> None:
    clean = report_text(parse_sections(USUAL))
    assert clean.text == "The lungs are clear. No effusion." and clean.used == ("last_paragraph",)
    assert clean.findings == clean.impression == ""
    assert report_text(parse_sections("")).empty and report_text(parse_sections(" FINDINGS:  ___.\n")).empty


def test_cleaning() -> None:
    text = (
        "1.) Left base (___) opacity  of 2. 5 cm , now\n2)Stable. IMPRESSION: ___-year-old, seen on ___/___; "
        "non-XXXX XXXX (XXXX, ___) at .5 cm. ____________ See No. 5. The end ... so"
    )
    clean = report_text(Sections(findings=text))
    assert clean.text == (
        "Left base opacity of 2. 5 cm, now. Stable. year-old, seen on; non at .5 cm. See No. 5. The end ... so"
    )
    assert (clean.num_marks, clean.num_list_numbers, clean.num_headers) == (8, 2, 1)
    assert not (count_marks(clean.text) or count_headers(clean.text))
    assert report_text(Sections(findings="___ . ")).text == ""
    assert report_text(Sections(findings="2.1 cm nodule, T12. Rib 5. The rest clear.")).num_list_numbers == 0
    assert report_text(Sections(impression="No change", findings="Clear.")).text == "No change Clear."


def test_flags_and_limits() -> None:
    short = report_text(Sections(impression="1. Normal chest."))
    assert short.too_short and not short.empty and short.text == "Normal chest." and short.num_words == 2
    assert not report_text(Sections(impression="Normal chest.", findings="Clear.")).too_short
    assert not report_text(Sections(impression="Normal chest."), min_words=2).too_short
    cut = report_text(Sections(impression="one two three four"), max_words=3)
    assert cut.cut and cut.text == "one two three" and cut.num_words_cut == 1
    assert not report_text(Sections(impression="one two three four"), max_words=4).cut
    long = Sections(impression="1. Seen by Dr. Smith.", findings="Nodule of 2.5 cm. No effusion - at all.")
    kept = {n: report_text(long, max_words=n) for n in (3, 4, 7, 8, 11, 12)}
    assert [kept[n].text for n in (3, 4, 7)] == ["Seen by Dr.", "Seen by Dr. Smith.", "Seen by Dr. Smith."]
    assert kept[8].text == kept[11].text == "Seen by Dr. Smith. Nodule of 2.5 cm." and kept[11].num_words_cut == 4
    assert kept[12].text.endswith("- at all.") and not kept[12].cut and kept[8].findings.endswith("at all.")
    with pytest.raises(ValueError, match="at least 1"):
        report_text(Sections(impression="one"), max_words=0)
    assert num_words("a - 2 . ...") == 2


@pytest.mark.parametrize(
    "parts",
    [
        "1. No effusion.|2. Nodule of 2.5 cm.|3) Clear.", "The nodule measures 4 mm.|No effusion.",
        "Seen by Dr. Smith at 5 a.m. today.|Unchanged vs. the prior, e.g. the apex, approx. 3 cm. in size.",
        "Line ends 5 cm. above the carina at 3 p.m. 2 views.|Stable.", 'He said "clear."|Then more.',
        "Compare film No. 5 of the series.|Pneumothorax?|No.|Effusion?|No!", "Opacity in the apex.|There is no other.",
        "Read by J. R. Miller and Mr. B. Jones.|Lack of vitamin D.|The bones are thin.",
        "Clear ... or nearly so...|The heart is large.", "First paragraph without a stop|Second one",
        "no effusion.|heart is normal.|T12.|old fracture of rib 5.|there is more.",
        "See the post. wall and the ant. segment, i.e. the front.|2. Lungs clear.",
    ],
)  # fmt: skip
def test_sentences(parts: str) -> None:
    expected = parts.split("|")
    assert sentences(("\n\n" if expected[0][-1].isalpha() else " ").join(expected)) == expected


def test_sentences_by_lines() -> None:
    assert sentences("1. Large\nheart\n2. No fluid\n\nSigned") == ["1. Large\nheart", "2. No fluid", "Signed"]
    assert sentences("In the apex.There is more. .") == ["In the apex.", "There is more. ."]
    assert sentences("") == sentences(" \n ") == []


@given(
    st.lists(
        st.sampled_from(["\n", "\n\n", *"1. No Dr. cm. 2.5 a.m. J. ... . ?) The x.Yes __".split()])
        | st.text(max_size=5)
    )
)
def test_sentences_lose_nothing(words: list[str]) -> None:
    text = " ".join(words)
    found = sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence == sentence.strip() != "" for sentence in found)
    assert all(any(c.isalnum() for c in sentence) for sentence in found[1:])


@given(st.text(alphabet="aB1.2)_X \n-(,:;"))
def test_cleaning_leaves_no_mark(text: str) -> None:
    clean = report_text(Sections(findings=text))
    assert count_marks(clean.text) <= ("_" * 10 in text) and "  " not in clean.text and "\n" not in clean.text
    assert clean.empty == (clean.text == "")


@pytest.mark.shared
def test_all_open_i_reports(shared_data: Path) -> None:
    with (shared_data / "openi-reports" / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3561
    num_sentences = num_marks = num_numbers = num_empty = num_short = num_headers = 0
    for i, row in enumerate(rows):
        found = sentences(row["text"])
        assert "".join("".join(found).split()) == "".join(row["text"].split())
        num_sentences += len(found)
        clean = report_text(Sections(impression=row["impression"], findings=row["findings"]))
        assert not (count_marks(clean.text) or count_headers(clean.text) or count_list_numbers(clean.text)), clean.text
        num_marks += clean.num_marks
        num_numbers += clean.num_list_numbers
        num_headers += clean.num_headers
        num_empty += clean.empty
        num_short += clean.too_short
        if i % 5:
            continue
        typed = (  # in the lay-out of MIMIC-CXR
            f"    FINAL REPORT\n INDICATION:  {row['indication']}\n \n FINDINGS: \n \n {row['findings']}\n \n"
            f" IMPRESSION: \n \n {row['impression']}\n"
        )
        parsed = parse_sections(typed)
        expected = [
            html.unescape(row[name]).replace("<BR>", "\n").removesuffix("END OF REPORT.").strip()
            for name in ("findings", "impression")
        ]
        if row["id"] != "oi-CXR2415":  # a whole report stands in its impression
            assert [parsed.findings, parsed.impression] == expected
        if ":" not in row["indication"]:
            assert parsed.indication == html.unescape(row["indication"])
    assert num_marks == sum(len(re.findall("X{4,}", row["findings"] + " " + row["impression"])) for row in rows)
    assert (num_sentences, num_marks, num_numbers) == (20532, 3363, 1142)
    assert (num_headers, num_empty, num_short) == (7, 24, 0)


@pytest.mark.parametrize(
    ("impression", "text"),
    [
        ("\n- no effusion\n- no nodule", "no effusion. no nodule"),
        (" \n * No effusion.\n * A well-defined nodule\n\n * Stable.", "No effusion. A well-defined nodule. Stable."),
        ("Stable\n\u2022 no effusion,\n\u2022no nodule", "Stable. no effusion. no nodule"),
        ("As follows:\r\n- no effusion;\r\n- no nodule", "As follows: no effusion; no nodule"),
        ("\n1. Nodules\n- left\n- right\n2. No effusion", "Nodules. left. right. No effusion"),
        ("10 - 12 mm - new -\n well-defined, 10\n - 12 mm", "10 - 12 mm - new - well-defined, 10 - 12 mm"),
        ("\n-2 views\n*note", "-2 views *note"),
        ("\n- ___ is seen\n- -", "is seen. -"),
    ],
)  # fmt: skip
def test_bullets_are_items(impression: str, text: str) -> None:
    assert report_text(parse_sections(f"IMPRESSION:{impression}")).text == text


SIGNED = "FINDINGS: The lungs are clear.\nIMPRESSION: Stable granuloma."


@pytest.mark.parametrize(
    "signature",
    [
        "Electronically signed by: Jane Roe, MD on 03/04/2019 at 10:15\nDictated by: R. Miles, MD  Transcribed: 3/4/19",
        "I have personally reviewed the images and\nagree with the resident's interpretation.",
        "Electronically Signed By:\nJane Roe\n03/04/2019 10:15",
        "This report was dictated with voice recognition software.",
        "Attending: Roe, Jane MD\nWorkstation: RADPC12\nJS/ab\nD: 03/04/2019 T: 03/05/2019",
        "Dr. Jane Roe FRCR\nConsultant Radiologist\nGMC 1234567",
        "Reviewed and approved by Jane Roe, M.D. on 2019-03-04",
        "Firmado electr\u00f3nicamente por Dra. Mar\u00eda L\u00f3pez el 04/03/2019",
        "Validado por: Dr. P\u00e9rez\nFecha del informe: 04/03/2019",
        "Laudado por: Dr. Jo\u00e3o da Silva\nCRM-SP 123456", "Valid\u00e9 par le Dr Dupont le 04/03/2019",
        "Befundet von Dr. med. Hans M\u00fcller am 04.03.2019 um 10:15 Uhr",
        "Mit freundlichen kollegialen Gr\u00fc\u00dfen\nDr. Hans M\u00fcller",
        "DR. JANE ROE\nCONSULTANT RADIOLOGIST\nGMC 1234567", "Dictated but not read.",
        "Date dictated 3/3/2011 Date transcribed 3/4/2011", "Final report approved by ROE, JANE on 2011/03/03.",
        "Report finalized 12/12/2012 13:14 by Jane Roe", "ATTENDING STATEMENT: I have reviewed the images.",
        "This exam was interpreted by the attending radiologist, Dr. Jane Roe.",
        "Prof. Dr. med. K. Schmidt, Chefarzt der Radiologie",
        "Reading Radiologist: Jane Roe MD\nPhone: 555-1234\nJob: 123456", "Dra. Maria Souza\nCRM 54321 SP",
    ],
)  # fmt: skip
def test_signatures_go_and_are_counted(signature: str) -> None:
    for report in (f"{SIGNED}\n\n{signature}", " ".join(f"{SIGNED} {signature}".split())):
        clean = report_text(parse_sections(report))
        assert (clean.impression, clean.findings) == ("Stable granuloma.", "The lungs are clear.")
        assert clean.num_signatures >= 1


@pytest.mark.parametrize(
    "sentence",
    [
        "Discussed with Dr. Smith at 3 p.m. on 3/4/2019.", "Reviewed with the prior, the nodule is stable.",
        "The study was read in conjunction with the CT, which shows an effusion.", "Report of the CT: a nodule.",
        "Signs of congestion.", "Verified by CT, a nodule lies in the left apex.", "2.50 cm nodule.",
        "NG/OG tube in place.", "T: 3 mm line.", "Read more clearly on the lateral view.",
        "Study performed on 3/4/2019 shows an effusion.", "DR CHEST PA shows an effusion.", "Job strain and cough.",
        "CC 2.5 cm nodule, AP 2.0 cm.", "Images obtained 3/4/2019 are compared.",
    ],
)  # fmt: skip
def test_sentences_that_are_no_signature_stay(sentence: str) -> None:
    assert report_text(parse_sections(f"FINDINGS:\nClear lungs.\n{sentence}\n")).findings == f"Clear lungs. {sentence}"


@pytest.mark.parametrize(
    ("typed", "findings"),
    [
        ("Nodule &lt; 5 mm.&nbsp;Heart &amp; aorta&#44; normal.<br/>No effusion.", None),
        ("<div><p>Nodule &#60; 5 mm.</p><p>Heart &amp; aorta, normal.</p><p>No effusion.</p></div>", None),
        ("Nodule &amp;lt; 5 mm. &lt;b&gt;Heart&lt;/b&gt; &#x26; aorta, normal. No effusion.", None),
        (r"Nodule < 5 mm.\nHeart & aorta, normal.\r\nNo effusion.", None),
        ("Nodule < 5 mm._x000D_\r\nHeart & aorta, **normal**.\u2028No\u00a0effusion.", None),
        ("<NODULE>Nodule &lt; 5 mm.</NODULE> _Heart_ & aorta, normal. No effusion.", None),
        ("Nodule a < b > c, left\\right, R&M; 5<6.", "Nodule a < b > c, left\\right, R&M; 5<6."),
    ],
)
def test_markup_is_resolved(typed: str, findings: str | None) -> None:
    clean = report_text(parse_sections(f"FINDINGS: {typed}"))
    assert clean.findings == (findings or "Nodule < 5 mm. Heart & aorta, normal. No effusion.")
    assert (clean.num_markup > 0) == (findings is None)


@pytest.mark.parametrize(
    ("findings", "impression"),
    [
        ("## Findings", "## Impression"), ("**FINDINGS:**", "**IMPRESSION:**"), ("__Findings__", "__Impression__"),
        ("1. Findings:", "2. Impression:"), ("Findings", "Impression"), ("FINDINGS -", "CONCLUSION -"),
        ("[FINDINGS]", "[OPINION]"), ("Report:", "Conclusion:"), ("findings:", "impression:"),
        ("RESULT:", "DIAGNOSIS:"), ("Observations \u2014", "Interpretation \u2014"),
        ("HALLAZGOS:", "IMPRESI\u00d3N DIAGN\u00d3STICA:"), ("Hallazgos radiol\u00f3gicos:", "Conclusi\u00f3n:"),
        ("ACHADOS:", "IMPRESS\u00c3O:"), ("An\u00e1lise:", "Conclus\u00e3o:"), ("R\u00c9SULTATS :", "CONCLUSION :"),
        ("Compte rendu :", "Au total :"), ("BEFUND:", "BEURTEILUNG:"), ("NARRATIVE:", "_IMPRESSION:_"),
        ("Befund", "Zusammenfassung"),
    ],
)  # fmt: skip
def test_headings_in_any_form(findings: str, impression: str) -> None:
    for between in ("\n", " ") if findings[-1] in ":-\u2014*" else ("\n",):
        report = f"Indication: Cough.\n{findings}{between}Opacity. No effusion.\n\n{impression}{between}Pneumonia."
        sections = parse_sections(report)
        clean = report_text(sections)
        assert (clean.findings, clean.impression) == ("Opacity. No effusion.", "Pneumonia."), report
        assert sections.indication == "Cough."


@pytest.mark.parametrize(
    ("report", "text"),
    [
        ("Findings: None. Impression: 1. Stable tubes.\n2. Larger effusion.", "Stable tubes. Larger effusion."),
        ("FINDINGS: Clear.\nINTERPRETATION: Nothing new.\nCONCLUSION: Normal.", "Normal. Clear. Nothing new."),
        ("FINDINGS: A\nOTHER FINDINGS: B.\nHEART: C.", "A. B. HEART: C."),
    ],
)  # fmt: skip
def test_the_text_of_headings_within_a_line(report: str, text: str) -> None:
    assert report_text(parse_sections(report)).text == text


@pytest.mark.parametrize(
    "addendum",
    ["ADDENDUM: Small left pneumothorax.", "Addendum #1 dated 3/4/2019:\nSmall left pneumothorax.",
     "ADDENDUM 03/04/2019 10:15 AM:\nIMPRESSION: Small left pneumothorax.\nSigned by: Dr. Roe",
     "NACHTRAG: Small left pneumothorax."],
)  # fmt: skip
def test_addenda_are_kept(addendum: str) -> None:
    clean = report_text(parse_sections(f"FINDINGS: Clear lungs.\nIMPRESSION: Normal.\n\n{addendum}"))
    assert clean.text == "Normal. Clear lungs. Small left pneumothorax." and clean.impression == "Normal."


@pytest.mark.parametrize("heading", ["EXAMINATION: {}", "Exam: {}", "{}:", "{}"])
def test_several_examinations_are_named_and_none_is_lost(heading: str) -> None:
    parts = (
        ("CHEST, PA AND LATERAL", "Clear lungs.", "Normal chest."),
        ("KNEE, AP VIEW", "Arthrosis.", "No fracture."),
    )
    report = "\n".join(f"{heading.format(name)}\nFINDINGS: {one}\nIMPRESSION: {other}\n" for name, one, other in parts)
    found = parse_sections(report)
    assert found.examinations == ("CHEST, PA AND LATERAL", "KNEE, AP VIEW") and found.num_replaced == 0
    assert report_text(found).text == "Normal chest. No fracture. Clear lungs. Arthrosis."
    assert parse_sections(report.split("\n\n")[0]).examinations == ()
    views = parse_sections("XR CHEST 1 VIEW: Clear.\nXR ABDOMEN 1 VIEW: No free air.")
    assert views.examinations == ("XR CHEST 1 VIEW", "XR ABDOMEN 1 VIEW") and "No free air" in views.findings


@pytest.mark.parametrize("unit", ["- ", " ", "Abc: ", "<!--", "Signed by Jane. ", "I have ", "ABC/def\n", "- x\n"])
def test_long_texts_take_time_in_proportion(unit: str) -> None:
    text = "FINDINGS: " + unit * (6000 // len(unit))
    clean = report_text(parse_sections(text))  # by squares this would take minutes
    assert count_headers(text) and clean.num_words <= len(text)
