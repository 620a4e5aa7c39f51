import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexalcm.evaluate.metrics.text_similarity import RepeatedNgrams, chrf, rouge_l, tokenize
from lexalcm.text.running_text import join_sentences

WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "it", "rained", "Don't", "U.S.", "1776", "co-op", "END"]


def random_sentence(generator, longest=30):
    return " ".join(generator.choice(WORDS) for _ in range(generator.randint(0, longest)))


def test_tokens_are_words_in_small_letters_and_characters_where_words_have_no_spaces():
    assert tokenize("Don't stop: naïve 12.5!") == ["don", "t", "stop", "naïve", "12", "5"]
    assert tokenize("空港のATMで、2千円。") == ["空", "港", "の", "atm", "で", "2", "千", "円"]
    assert tokenize("データー") == ["デ", "ー", "タ", "ー"]
    assert tokenize("ＡＢＣ　ｄ") == ["abc", "d"]
    assert tokenize("हिन्दी में") == ["हिन्दी", "में"]  # vowel signs belong to their words
    assert tokenize("한국어 문장") == ["한국어", "문장"]  # Korean has spaces
    assert tokenize(" … ") == []


def test_rouge_l_of_a_case_worked_by_hand():
    # Lin 2004, section 3.1: "police killed the gunman" against "police kill the gunman": the subsequence is police,
    # the, gunman; precision and recall 3/4. "the gunman kill police": the, gunman; 2/4.
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(0.75)
    assert rouge_l("the gunman kill police", "police killed the gunman") == pytest.approx(0.5)
    # 3 common characters of 4 and 5: F1 = 2 * 3 / 9
    assert rouge_l("星が光る", "星は光るよ") == pytest.approx(2 / 3)
    assert rouge_l("", "word") == rouge_l("word", "!") == 0


def test_rouge_l_is_that_of_the_package_rouge_score():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    generator = random.Random(0)
    for _ in range(60):
        written, reference = random_sentence(generator), random_sentence(generator)
        expected = scorer.score(reference, written)["rougeL"].fmeasure
        assert rouge_l(written, reference) == pytest.approx(expected), (written, reference)


def test_chrf_of_a_case_worked_by_hand():
    # "ab" against "abc": 1-grams 2/2 and 2/3, 2-grams 1/1 and 1/2, no 3-grams in "ab": precision 1, recall 7/12.
    assert chrf("ab", "abc") == pytest.approx(100 * 5 * (7 / 12) / (4 + 7 / 12))
    assert chrf("a b", "ab") == pytest.approx(100)  # spaces do not count
    assert chrf("ab", "cd") == chrf("", "x") == 0


def test_chrf_is_that_of_the_package_sacrebleu():
    scorer = pytest.importorskip("sacrebleu.metrics").CHRF()
    generator = random.Random(1)
    pairs = [(random_sentence(generator), random_sentence(generator)) for _ in range(60)]
    pairs += [("銀河鉄道の夜", "銀河の鉄道と夜"), ("short", "a much longer reference"), ("a", "a"), ("x", "abcdefgh")]
    for written, reference in pairs:
        expected = scorer.sentence_score(written, [reference]).score
        assert chrf(written, reference) == pytest.approx(expected), (written, reference)


def test_repeated_ngrams_of_a_case_worked_by_hand():
    text = RepeatedNgrams()
    assert text.add("one two three four five") == (0, 2)
    assert text.add("two three four five six") == (1, 2)  # "two three four five" stands there
    assert text.add("na na na na na na") == (2, 3)  # thrice the same, twice repeated
    assert text.add("too short here") == (0, 0)
    assert text.count("one two three four") == (1, 1)
    assert RepeatedNgrams(["one two three four"]).count("one two three four") == (1, 1)


@given(st.lists(st.lists(st.sampled_from(["a", "b"]), max_size=12).map(" ".join), max_size=6))
def test_repetition_of_a_whole_text_is_one_minus_the_share_of_distinct_ngrams(sentences):
    text = RepeatedNgrams()
    repeated, every = map(sum, zip(*[text.add(sentence) for sentence in sentences], (0, 0), strict=True))
    ngrams = [tuple(words[i : i + 4]) for s in sentences for words in [s.split()] for i in range(len(words) - 3)]
    assert (repeated, every) == (len(ngrams) - len(set(ngrams)), len(ngrams))


def test_sentences_are_joined_with_spaces_where_the_script_has_them():
    assert join_sentences(["It rained.", "He left."]) == "It rained. He left."
    assert join_sentences(["雨が降った。", "「彼は」", "去った。"]) == "雨が降った。「彼は」去った。"
    assert join_sentences([]) == ""
