"""Where sentences end, script by script: what the library of rules leaves to us."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexalcm.text.segment import segment, segment_texts


@pytest.mark.parametrize(
    ("lang", "sentences"),
    [
        ("fra_Latn", ["M. Dupont est là.", "Mme. Curie aussi.", "Dr. Martin vient demain."]),
        ("fra_Latn", ["MM. Durand et Petit.", "Mlle. Rose.", "Me. Bernard plaide.", "Mgr. Paul écoute."]),
        ("fra_Latn", ["Il mesure 5 m.", "Dupont est là."]),
        ("eng_Latn", ["“Mr. Brown is here.”", "“Mrs. Brown is not.”"]),
        ("deu_Latn", ["Hr. Maier ging.", "Fr. Dr. Schmidt blieb.", "Prof. Weber auch."]),
        ("nld_Latn", ["Mevr. de Vries kwam.", "Dhr. Jansen ook."]),
        ("spa_Latn", ["La Sra. Gómez vino.", "El Dr. López no."]),
        ("por_Latn", ["O Sr. Silva veio.", "A Dra. Costa não."]),
        ("ita_Latn", ["Il sig. Rossi venne.", "La dott.ssa. Bianchi no."]),
        ("pol_Latn", ["Dr. Nowak przyszedł.", "Prof. Kowalski nie."]),
        ("rus_Cyrl", ["Д-р. Сидоров пришёл.", "Проф. Петров ушёл."]),
        ("hin_Deva", ["डॉ. शर्मा आज आए।", "वे कल जाएँगे।"]),
        ("mar_Deva", ["डॉ. जोशी आले.", "श्री. पाटील गेले."]),
        ("ben_Beng", ["ডা. রহমান এসেছেন।", "ড. করিম গেছেন।"]),
        ("npi_Deva", ["डा. शर्मा आए।", "प्रा. थापा गए।"]),
        ("tam_Taml", ["திரு. ராமன் வந்தார்.", "டாக்டர். குமார் வந்தார்."]),
        ("tel_Telu", ["డా. రావు వచ్చారు.", "శ్రీ. రెడ్డి వచ్చారు."]),
        ("mal_Mlym", ["ഡോ. നായർ വന്നു.", "ശ്രീ. മേനോൻ പോയി."]),
        ("kan_Knda", ["ಡಾ. ರಾವ್ ಬಂದರು.", "ಶ್ರೀ. ಗೌಡ ಹೋದರು."]),
        ("guj_Gujr", ["ડૉ. પટેલ આવ્યા.", "શ્રી. શાહ ગયા."]),
        ("arb_Arab", ["د. محمد حضر.", "أ. علي غاب."]),
        ("tha_Thai", ["ดร. สมชาย มา.", "เขา ไป."]),
        ("xxx_Latn", ["Dr. Abc def.", "Prof. Ghi jkl."]),
    ],
)
def test_a_title_belongs_to_its_name(lang: str, sentences: list[str]) -> None:
    assert segment(" ".join(sentences), lang) == sentences


@pytest.mark.parametrize(
    ("lang", "sentences"),
    [
        ("khm_Khmr", ["ខ្ញុំទៅផ្ទះ។ ", "គាត់នៅទីនេះ។ ", "អរគុណ៕"]),
        ("khm_Khmr", ["ខ្ញុំទៅផ្ទះ។", "«គាត់នៅទីនេះ។»", "អរគុណ។"]),
        ("khm_Khmr", ["ខ្ញុំមានសៀវភៅ ប៊ិច ។ល។ និងក្តារ។ ", "អរគុណ។"]),
        ("bod_Tibt", ["བཀྲ་ཤིས་བདེ་ལེགས། ", "ང་བོད་པ་ཡིན། ", "དེ་རེད༎"]),
        ("bod_Tibt", ["༄༅། །བཀྲ་ཤིས་བདེ་ལེགས། །", "ང་བོད་པ་ཡིན། །"]),
        ("mya_Mymr", ["သူလာသည်။ ", "သူမသွားသည်။"]),
        ("san_Deva", ["रामः गच्छति। ", "सः वदति॥"]),
        ("amh_Ethi", ["ሰላም ነው። ", "ደህና ነህ፧"]),
        ("urd_Arab", ["یہ گھر ہے۔ ", "وہ یہاں ہے۔"]),
        ("hye_Armn", ["Սա տուն է։ ", "Նա այստեղ է։"]),
    ],
)
def test_stops_of_scripts(lang: str, sentences: list[str]) -> None:
    assert segment("".join(sentences), lang) == [sentence.strip() for sentence in sentences]


@pytest.mark.parametrize(
    "sentences",
    [
        ["「行こう。」と彼は言った。", "空は青かった。"],
        ["『行こう。』って言った。", "空は青かった。"],
        ["「行こう。」などと言う。", "「はい。」", "とても青い。"],
        ["「行こう。」", "「はい。」", "彼は言った。"],
        ["『行こう。』", "彼は言った。"],
        ["“行こう。”と言った。", "次だ。"],
    ],
)
def test_a_quotation_in_japanese_goes_on_with_its_particle(sentences: list[str]) -> None:
    assert segment("".join(sentences), "jpn_Jpan") == sentences


MARKS = [
    "1.",
    "12.",
    "1.2.",
    "II.",
    "iv.",
    "a.",
    "B)",
    "(3)",
    "[4]",
    "２．",
    "（３）",
    "一．",
    "٣.",
    "가.",
    "#1.",
    "§ 3.",
]


class CutsBehindMarks:
    """Whoever segments: one that cuts at every space behind a point or a bracket."""

    def split(self, paragraphs: list[str], lang: str) -> list[list[str]]:
        return [
            [piece + " " for piece in paragraph.replace(". ", ".\n").replace(") ", ")\n").split("\n")]
            for paragraph in paragraphs
        ]


@given(
    st.lists(st.tuples(st.sampled_from(MARKS), st.sampled_from(["Boil the water.", "Wait."])), min_size=1, max_size=5),
    st.booleans(),
)
def test_the_mark_of_an_item_belongs_to_the_item(items: list[tuple[str, str]], on_one_line: bool) -> None:
    lines = [f"{mark} {text}" for mark, text in items]
    text = (" " if on_one_line else "\n").join(lines)
    cut = segment_texts([(text, "eng_Latn")], segmenter=CutsBehindMarks())[0]
    assert [sentence.strip() for sentence in cut] == lines
    if not on_one_line:
        assert segment(text, "eng_Latn") == lines


def test_a_full_width_mark_without_a_space() -> None:
    assert segment("１．湯を沸かす。２．待つ。", "jpn_Jpan") == ["１．湯を沸かす。", "２．待つ。"]
    assert segment("1. 烧水。2. 等待。", "zho_Hans") == ["1. 烧水。", "2. 等待。"]


@pytest.mark.parametrize(
    "sentences",
    [["The road is called Route 55.", "Many cars were on it."], ["How many?", "5."], ["See part II.", "It is short."]],
)
def test_a_number_at_the_end_of_a_sentence_ends_it(sentences: list[str]) -> None:
    assert segment(" ".join(sentences), "eng_Latn") == sentences
