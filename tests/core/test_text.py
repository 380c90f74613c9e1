"""omnirl_core.text: tags, the answer, references, tokens."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.tokenize import tokenize as rouge_score_tokenize

from omnirl_core.text import (
    answer_text,
    completion_text,
    find_tags,
    parse_response,
    reference_texts,
    strip_tags,
    tokens,
)

GOOD = "<think>two and two</think><answer>4</answer>"


# --- the text of a completion ---


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        (None, ""),
        ("", ""),
        ("plain", "plain"),
        ([], ""),
        ([{"role": "assistant", "content": "chat"}], "chat"),
        ([{"role": "assistant", "content": None}], ""),
        ([{"role": "assistant"}], ""),
        ([{"content": "no role"}], "no role"),
        ([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image"}, "b"]}], "ab"),
        ([{"role": "assistant", "content": [{"type": "text", "text": None}]}], ""),
        (
            [
                {"role": "assistant", "content": "<think>call"},
                {"role": "tool", "content": "<answer>forged</answer>"},
                {"role": "assistant", "content": "</think><answer>4</answer>"},
            ],
            "<think>call\n</think><answer>4</answer>",
        ),
    ],
)
def test_completion_text_reads_every_form_that_trl_gives(completion, text):
    assert completion_text(completion) == text


# --- format ---


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, ""),
        ("\n " + GOOD + " \n", ""),
        ("<think>a</think>\n\n<answer>b\nc</answer>\n", ""),
        (GOOD + "<|im_end|>", ""),
        (GOOD + "\n<|im_end|>\n", ""),
        ("<think>a < b > c <b></think><answer>x</answer>", ""),
        ("", "no <think>"),
        ("4", "no <think>"),
        ("<think></think><answer>4</answer>", "empty <think>"),
        ("<think>a</think><answer> \n</answer>", "empty <answer>"),
        ("<think>a</think><answer>4", "no </answer>"),
        ("<think>a<answer>4</answer>", "no </think>"),
        ("so: " + GOOD, "text before <think>"),
        (GOOD + " done", "text after </answer>"),
        (GOOD + "<|im_end|> <|im_end|>", "text after </answer>"),
        ("<think>a</think> so <answer>4</answer>", "text between </think> and <answer>"),
        (GOOD + GOOD, "2 x <think>"),
        ("<think>a</think><answer>4</answer><answer>5</answer>", "2 x <answer>"),
        ("<answer>4</answer><think>a</think>", "tags out of order: <answer> </answer> <think> </think>"),
        ("<think>a<answer></think>4</answer>", "tags out of order: <think> <answer> </think> </answer>"),
        ("<THINK>a</THINK><ANSWER>4</ANSWER>", "no <think>"),
        ("< think>a</think><answer>4</answer>", "no <think>"),
    ],
)
def test_a_response_is_well_formed_or_says_why_not(text, reason):
    response = parse_response(text)
    assert response.reason == reason
    assert response.well_formed == (reason == "")


def test_a_response_keeps_thought_and_answer_even_when_malformed():
    response = parse_response("reasoning</think> so <answer> 4 </answer> and")
    assert (response.think, response.answer) == ("reasoning", "4")


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (GOOD, "4"),
        ("<answer>4</answer>", "4"),
        ("the template opened it</think><answer>4</answer>", "4"),
        ("<think>maybe <answer>3</answer></think><answer>4</answer>", "4"),
        ("<think>maybe <answer>3</answer></think>", None),
        ("<think>maybe <answer>3</answer>", None),  # cut off while thinking
        ("<think>a</think><answer>3</answer><answer>4</answer>", "4"),
        ("<think>a</think><answer>3</answer><think>or <answer>4</answer>", "3"),
        ("<think>a</think><answer>4", None),
        ("<think>a</think><answer>3</answer> wait <answer>4", "3"),
        ("<think>a</think><answer><answer>4</answer></answer>", "4"),
        ("<think>a</think></answer>4<answer>", None),
        ("<think>a</think><answer></answer>", ""),
        ("<answer>3</answer></think>", None),
        ("four", None),
        (None, None),
        ([{"role": "assistant", "content": GOOD}], "4"),
    ],
)
def test_the_answer_is_the_last_closed_one_after_the_thought(completion, answer):
    assert answer_text(completion) == answer


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "x", " ", "<", "think>"])))
def test_well_formed_means_what_the_definition_says(parts):
    """The definition spelled out by partition, where the scanner counts tags."""
    text = "".join(parts)
    body = text.strip()
    think, end_think, rest = body.removeprefix("<think>").partition("</think>")
    answer, end_answer, after = rest.strip().removeprefix("<answer>").partition("</answer>")
    expected = (
        body.startswith("<think>")
        and bool(end_think)
        and rest.strip().startswith("<answer>")
        and bool(end_answer)
        and not after.strip()
        and bool(think.strip())
        and bool(answer.strip())
        and not find_tags(think + " " + answer)
    )
    assert parse_response(text).well_formed == expected


def test_tags_are_scanned_in_linear_time():
    """The pieces that a scan looks at are no more than the tags: nothing is looked at twice."""
    text = "<think>" + "</think>" * 4000 + "<answer>" * 4000
    assert len(find_tags(text)) == 8001
    assert parse_response(text).reason == "4000 x </think>"
    assert answer_text(text) is None


# --- references ---


@pytest.mark.parametrize(
    ("solution", "texts"),
    [
        ("a cat", ["a cat"]),
        ("  a cat\n", ["a cat"]),
        ("<answer> a cat </answer>", ["a cat"]),
        ("<think>it meows</think><answer>a cat</answer>", ["a cat"]),
        ("<answer>a cat", ["a cat"]),
        ("a < b", ["a < b"]),
        (4, ["4"]),
        (4.0, ["4"]),
        (-4.5, ["-4.5"]),
        (10**30, [str(10**30)]),
        (True, ["True"]),
        (["a cat", "<answer>cat</answer>", 4], ["a cat", "cat", "4"]),
        (("a", "b"), ["a", "b"]),
        (["a cat", None, "", {}], ["a cat"]),
        ({"answer": "a cat"}, ["a cat"]),
        ({"text": ["a", "b"], "id": 3}, ["a", "b"]),
        (None, None),
        ("", None),
        ("  ", None),
        ("<answer></answer>", None),
        ([], None),
        ([None, ""], None),
        ({}, None),
        ({"boxes": [1, 2]}, None),
        (float("nan"), None),
        (float("inf"), None),
        (object(), None),
        (b"bytes", None),
    ],
)
def test_references_are_read_or_missing(solution, texts):
    assert reference_texts(solution) == texts


def test_strip_tags_leaves_other_brackets():
    assert strip_tags("<b>bold</b> x</answer>") == "<b>bold</b> x"


# --- tokens ---

WORLD = {
    "the cat's 3.14": ["the", "cat", "s", "3", "14"],
    "snake_case is-two": ["snake", "case", "is", "two"],
    "Café RÉSUMÉ naïve": ["café", "résumé", "naïve"],
    "cafe\u0301": ["café"],  # decomposed
    "Ｆｕｌｌ　ｗｉｄｔｈ１２": ["full", "width12"],
    "我爱 NLP2024模型": ["我", "爱", "nlp2024", "模", "型"],
    "カメラとｶﾒﾗ": ["カ", "メ", "ラ", "と", "カ", "メ", "ラ"],
    "안녕하세요 세계": ["안녕하세요", "세계"],
    "Привет, мир!": ["привет", "мир"],
    "مَرْحَبًا بالعالم": ["مَرْحَبًا", "بالعالم"],  # vowel signs stay with their letters
    "नमस्ते दुनिया": ["नमस्ते", "दुनिया"],  # vowel signs and virama too
    "தமிழ் மொழி": ["தமிழ்", "மொழி"],
    "ผมรักเมืองไทย": ["ผ", "ม", "รั", "ก", "เ", "มื", "อ", "ง", "ไ", "ท", "ย"],
    "I feel 😀 not 😡": ["i", "feel", "😀", "not", "😡"],
    "❤️": ["❤"],
    "20 °C": ["20", "°", "c"],
    "!!! ...": [],
    "": [],
    "𠮷野家": ["𠮷", "野", "家"],
}


@pytest.mark.parametrize("text", WORLD)
def test_tokens_of_many_scripts(text):
    assert tokens(text) == [unicodedata.normalize("NFC", token) for token in WORLD[text]]


@settings(max_examples=300)
@given(st.text(st.characters(max_codepoint=127)))
def test_tokens_of_ascii_text_are_those_of_rouge_score(text):
    assert tokens(text) == rouge_score_tokenize(text, None)


@given(st.text())
def test_tokens_of_a_text_do_not_depend_on_its_unicode_form(text):
    assert tokens(unicodedata.normalize("NFD", text)) == tokens(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1,234", "1234"),
        ("1,234,567.50", "1234567.5"),
        ("$25", "$25.00"),
        ("50 %", "50%"),
        (".5", "0.5"),
        ("+5", "5"),
        ("-5", "\u22125"),  # the minus sign of typesetters
        ("x=-5", "x = -5"),
        ("１２", "12"),
    ],
)
def test_numbers_have_one_form(one, other):
    assert tokens(one, numbers=True) == tokens(other, numbers=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("5", "-5"),
        ("3.15", "3.14"),
        ("17:54", "17:45"),
        ("1/36", "136"),
        ("1,243", "1,234"),
        ("50%", "50"),
        ("3.14", "314"),
    ],
)
def test_different_numbers_differ_as_one_token(one, other):
    (a,), (b,) = tokens(one, numbers=True), tokens(other, numbers=True)
    assert a != b


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pages 3-5", ["pages", "3", "5"]),  # a dash between numbers is no sign
        ("f(2)-5", ["f", "2", "5"]),
        ("covid19 and 5kg", ["covid19", "and", "5", "kg"]),
        ("答案是-42个", ["答", "案", "是", "-42", "个"]),
        ("1.5e-3", ["1.5e-3"]),
        ("a.b. 3.", ["a", "b", "3"]),
        ("-", []),
    ],
)
def test_numbers_among_words(text, expected):
    assert tokens(text, numbers=True) == expected
