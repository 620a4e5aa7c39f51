import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from lexalcm.text.segment import SentencexSegmenter, cut_long, segment

pieces_of_text = st.sampled_from(
    [
        *"abcMrXyz0123 ..,,;:!?—-\"'()[]。、！？「」かな漢字ー\u3000\u00a0\t\n\r\n\u2028\x00\x1b\ufeff",
        "Mr. ",
        "U.S. ",
        "e\u0301",
        "\u0301",
        "👨‍👩‍👧",
        "🇯🇵",
        "🇺🇸",
        "क्षि",
        "각",
        "\u200d",
        "\ufe0f",
        "word " * 20,
        "とても長い文、" * 10,
    ]
)
texts = st.one_of(
    st.lists(pieces_of_text, max_size=60).map("".join), st.text(alphabet=st.characters(exclude_categories=("Cs",)))
)
languages = st.sampled_from(
    ["eng_Latn", "jpn_Jpan", "deu_Latn", "arb_Arab", "zho_Hans", "hin_Deva", "mya_Mymr", "xxx_Latn"]
)
caps = st.sampled_from([1, 2, 7, 30, 250])


def invisible(character: str) -> bool:
    return bool(regex.match(r"[\p{Cf}\p{Default_Ignorable_Code_Point}\u2800]", character))


def visible(text: str) -> str:
    """What segmenting must keep: all but whitespace, control characters and those without a shape."""
    return "".join(c for c in text if not (c.isspace() or unicodedata.category(c) == "Cc" or invisible(c)))


def graphemes(text: str) -> list[str]:
    return [kept for grapheme in regex.findall(r"\X", text) if (kept := visible(grapheme))]


RULES = {*"-‐‑‒–—―_=~*#.·•+|!:`★☆※⁂＊＿－＝～〜＃｜＋．・", *map(chr, range(0x2500, 0x2600))}


_WITHOUT_RULES = str.maketrans(dict.fromkeys(RULES, ""))


def says_something(text: str) -> bool:
    """Whether a text has a sentence: one visible character, or one that no rule is drawn with."""
    seen = [c for c in visible(text) if unicodedata.category(c) not in ("Cs", "Mn", "Me")]
    return len(seen) == 1 or not RULES.issuperset(seen)


def said(text: str) -> str:
    """The lines of a text that have a sentence: those of nothing but rules only where it has no other."""
    lines = regex.split(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text)
    seen = [{c for c in visible(line) if unicodedata.category(c) not in ("Cs", "Mn", "Me")} for line in lines]
    rules = RULES if any(one - RULES for one in seen) else set()
    return "\n".join(line for line, one in zip(lines, seen, strict=True) if one - rules)


@given(texts, languages, caps, st.booleans())
def test_nothing_is_lost_and_every_piece_fits(text: str, lang: str, cap: int, join_lines: bool) -> None:
    sentences = segment(text, lang, max_chars=cap, join_lines=join_lines)
    assert bool(sentences) == says_something(text)
    if not sentences:
        return
    kept, wanted = visible("".join(sentences)), visible(said(text))
    if join_lines:  # what a line is depends on more
        kept, wanted = (
            regex.sub(r"[\p{Mn}\p{Me}]", "", whole).translate(_WITHOUT_RULES) for whole in (kept, visible(text))
        )
    assert kept == wanted
    assert all(sentence and sentence == sentence.strip() for sentence in sentences)
    assert all(len(sentence) <= cap for sentence in sentences)


@given(texts, languages, caps)
def test_no_grapheme_is_divided_that_fits(text: str, lang: str, cap: int) -> None:
    sentences = segment(text, lang, max_chars=cap)
    if not sentences:
        return
    parts = iter([g for sentence in sentences for g in graphemes(sentence)])
    for grapheme in regex.findall(r"\X", said(text)):
        if not (wanted := visible(grapheme)):
            continue
        found = next(parts)
        while len(grapheme) > cap and len(found) < len(wanted):
            found += next(parts)
        assert found == wanted
    assert next(parts, None) is None


@pytest.mark.parametrize(
    ("lang", "text", "expected"),
    [
        ("eng_Latn", "Dr. Smith went home. He slept.", ["Dr. Smith went home.", "He slept."]),
        ("eng_Latn", "A title\nThen a text.", ["A title", "Then a text."]),
        ("jpn_Jpan", "そうです。いいえ、違います。", ["そうです。", "いいえ、違います。"]),
        ("jpn_Jpan", "「はい。」\n「いいえ。」", ["「はい。」", "「いいえ。」"]),
        ("deu_Latn", "Das ist z.B. gut. Am 5. Mai auch.", ["Das ist z.B. gut.", "Am 5. Mai auch."]),
        ("eng_Latn", "Spaces   and\ttabs\x00 go.", ["Spaces and tabs go."]),
    ],
)
def test_sentences(lang: str, text: str, expected: list[str]) -> None:
    assert segment(text, lang) == expected


@pytest.mark.parametrize("text", ["", "  \n\t", "\x00\x01", "...", "* * *\n---"])
def test_a_text_without_words_has_no_sentence(text: str) -> None:
    assert segment(text, "eng_Latn") == []


@pytest.mark.parametrize(
    "text",
    ["=====", "-=-=-=-", "~*~", "\u2014\u2014", "+---+---+\n|   |   |", "# #", "!!!", "· · ·", "\u200b", "\u0301"],
)
def test_decoration_and_what_nobody_sees_has_no_sentence(text: str) -> None:
    assert segment(text, "eng_Latn") == []


SHAPELESS = ["\u200b", "\u00ad", "\u200e", "\u2060", "\ufeff", "\u3164", "\u2800", "\u180e", "\ufe0f", "\u200d\u200c"]
RULED = [
    *("* * *", "---", "|---|---|", "=====", "\u2014\u2014", "~~~", "· · ·", "＊＊＊", "━━━━"),
    *("・・・", "☆ ☆ ☆", "|:---|---:|", "```", "+--+\n|  |", "-", "•"),
]


@pytest.mark.parametrize("nothing", [*SHAPELESS, *RULED])
@pytest.mark.parametrize("join_lines", [False, True])
def test_a_line_that_says_nothing_is_blank(nothing: str, join_lines: bool) -> None:
    text = f"{nothing}\nThe harbour was quiet. A boat came in.\n{nothing}\n{nothing} \r\nNobody asked.\n{nothing}"
    wanted = ["The harbour was quiet.", "A boat came in.", "Nobody asked."]
    assert segment(text, "eng_Latn", join_lines=join_lines) == wanted
    assert segment(text, "eng_Latn", segmenter=SentencexSegmenter(), join_lines=join_lines) == wanted


@pytest.mark.parametrize("nothing", SHAPELESS)
def test_so_is_a_word_of_invisible_characters(nothing: str) -> None:
    text = f"{nothing} The harbour was quiet. {nothing} A {nothing} {nothing} boat came in. {nothing}"
    assert segment(text, "eng_Latn") == ["The harbour was quiet.", "A boat came in."]


@pytest.mark.parametrize(
    "text", ["co\u00adoperate", "می\u200cخواهم", "👨\u200d👩\u200d👧", "❤\ufe0f", "क्\u200dष", "ᄀ\u1160ᆨ"]
)
def test_invisible_characters_within_words_stay(text: str) -> None:
    assert segment(f"It is {text} here.", "eng_Latn") == [f"It is {text} here."]


@pytest.mark.parametrize("ruled", RULED)
def test_decoration_within_a_line_is_no_sentence_of_its_own(ruled: str) -> None:
    sentences = segment(f"{ruled} It was over. {ruled} Then it began.", "eng_Latn")
    assert len(sentences) == 2
    assert "over" in sentences[0]
    assert "began" in sentences[1]


@pytest.mark.parametrize("lang", ["eng_Latn", "jpn_Jpan", "arb_Arab"])
@pytest.mark.parametrize(
    "text",
    [
        *(
            "!",
            "?",
            "$",
            "…",
            "∑ = ∞",
            "?!",
            "¿?",
            "€ £ ¥",
            "……",
            "「……」",
            ":-)",
            "→",
            "⇒",
            "±",
            "✓",
            "🙂",
            "%",
            "& co",
        ),
        *("-", "*", "=", "+", ".", "#"),  # alone each is said: a grade, a blood group, a language
        *("؟", "।", "。", "、"),
    ],
)
def test_a_text_of_symbols_is_a_sentence(text: str, lang: str) -> None:
    assert visible("".join(segment(text, lang))) == visible(text)
    assert segment(f"\n \x00{text}\t\ufeff", lang) == segment(text, lang)


def test_lines_wrapped_by_hand_are_joined_on_request() -> None:
    text = "It is a truth\nuniversally known.\r\nThat is\r\nall.\n\nNew paragraph\nhere."
    assert segment(text, "eng_Latn", join_lines=True) == [
        "It is a truth universally known.",
        "That is all.",
        "New paragraph here.",
    ]


def test_a_no_break_space_behind_an_initial_is_a_space() -> None:
    assert segment("He met J.\u00a0K.\u00a0Rowling.\u2028Then he left.", "eng_Latn")[-1] == "Then he left."


def test_lone_surrogates_are_replaced() -> None:
    assert segment("bad \ud800 escape", "eng_Latn") == ["bad \ufffd escape"]


def test_long_sentences_are_cut_behind_clauses_first() -> None:
    left, right = "one two, three four five six seven eight nine;", "ten, eleven twelve thirteen fourteen"
    assert cut_long(f"{left} {right}", max_chars=60) == [left, right]


def test_long_sentences_are_cut_behind_commas_before_spaces() -> None:
    left, right = "one two three four five six, ", "seven eight nine ten eleven twelve"
    assert cut_long(left + right, max_chars=50) == [left.strip(), right]


def test_japanese_is_cut_behind_its_own_comma() -> None:
    left, right = "あ" * 130 + "、", "い" * 125
    assert cut_long(left + right) == [left, right]


def test_neither_abbreviations_nor_numbers_are_boundaries() -> None:
    left, right = "he saw the old Mr. Smith,", "who came there by train"
    assert cut_long(f"{left} {right}", max_chars=40) == [left, right]
    left, right = "he has paid Ann 3,000.50", "pounds for all of it"
    assert cut_long(f"{left} {right}", max_chars=40) == [left, right]


def test_pieces_are_of_similar_length() -> None:
    lengths = [len(piece) for piece in cut_long(" ".join(["word"] * 102))]  # 509 characters
    assert len(lengths) == 3
    assert max(lengths) - min(lengths) <= 10


def test_text_without_any_boundary_is_cut_between_graphemes() -> None:
    pieces = cut_long("e\u0301" * 200, max_chars=250)
    assert len(pieces) == 2
    assert all(len(piece) % 2 == 0 for piece in pieces)


def test_a_grapheme_above_the_cap_is_cut_at_the_cap() -> None:
    """Nothing of it is lost, nor is anything beside it divided."""
    zalgo = "a" + "\u0301" * 300
    assert segment(zalgo, "eng_Latn") == [zalgo[:250], zalgo[250:]]
    found = segment(f"Before e\u0301. {zalgo} After.", "eng_Latn")
    assert max(map(len, found)) <= 250
    assert visible("".join(found)) == visible(f"Before e\u0301. {zalgo} After.")
    assert found[0].startswith("Before e\u0301.")
    assert found[-1].endswith("After.")
