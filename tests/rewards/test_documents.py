"""Documents, charts and tables: jiwer, apted and the papers' own code as oracles."""

import random

import jiwer
import pytest
from apted import APTED, Config
from apted.helpers import Tree
from lxml import html

from omnirl_core.rewards.registry import scorer_named

NAMES = ("anls", "cer", "wer", "relaxed_accuracy", "teds", "teds_struct", "unit_tests")
anls, cer, wer, relaxed_accuracy, teds, teds_struct, unit_tests = map(scorer_named, NAMES)
PAIRS = 400
TEXT = "the harbour office of Oslo, 1842 ships; a Ship 48.2 % naïve — „quoted“ text Bergen x"
WORDS = TEXT.split()


def drawn_texts(rng):
    text = rng.choices(WORDS, k=rng.randint(1, 12))
    other = [word if rng.random() < 0.7 else rng.choice(WORDS) for word in text if rng.random() < 0.9]
    return " ".join(other[: rng.randint(0, 12)]), " ".join(text)


def edits(a, b):
    row = list(range(len(b) + 1))
    for i, one in enumerate(a):
        before, row[0] = row[:], i + 1
        for j, other in enumerate(b):
            row[j + 1] = min(before[j + 1] + 1, row[j] + 1, before[j] + (one != other))
    return row[-1]


def test_error_rates_are_jiwers():
    rng = random.Random(0)
    for _ in range(PAIRS):
        said, wanted = drawn_texts(rng)
        assert wer(said, wanted) == pytest.approx(max(0.0, 1 - jiwer.wer(wanted, said)))
        assert cer(said, wanted, floor=0.0) == pytest.approx(max(0.0, 1 - jiwer.cer(wanted, said)))


def test_anls_is_docvqas():
    """As in the DocVQA papers: 1 - NL where NL < 0.5, else 0; the best answer counts."""
    rng = random.Random(0)
    for _ in range(PAIRS):
        said, wanted = drawn_texts(rng)
        answers = [wanted, rng.choice(WORDS)]
        scores = []
        for answer in answers:
            a, b = said.lower(), answer.lower()
            distance = edits(a, b) / max(len(a), len(b))
            scores.append(1 - distance if distance < 0.5 else 0.0)
        assert anls(said, answers) == pytest.approx(max(scores))


def chartqa(prediction, target):
    def number(text):
        try:
            return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
        except ValueError:
            return None

    said, wanted = number(prediction), number(target)
    if said is not None and wanted:
        return float(abs(said - wanted) / abs(wanted) <= 0.05)
    return float(prediction.lower() == target.lower())


def test_relaxed_accuracy_is_chartqas():
    rng = random.Random(0)
    for _ in range(PAIRS):
        kind = rng.choice(["number", "percent", "text"])
        if kind == "text":
            pair = rng.choices(["Norway", "norway", "South Korea", "Yes", "No"], k=2)
        else:
            wanted = rng.choice([rng.uniform(1, 900), rng.randint(2, 1400), -rng.uniform(1, 9)])
            said = rng.choice([wanted, wanted * rng.uniform(0.9, 1.1), rng.uniform(1, 900)])
            pair = [f"{value:.6f}".rstrip("0").rstrip(".") + "%" * (kind == "percent") for value in (said, wanted)]
        assert relaxed_accuracy(*pair) == chartqa(*pair)


# --- TEDS: apted on lxml's trees ---


class Node(Tree):
    def __init__(self, tag, spans=(), content="", children=()):
        self.tag, self.spans, self.content, self.children = tag, spans, content, list(children)


class Costs(Config):
    def rename(self, a, b):
        if a.tag != b.tag or a.spans != b.spans:
            return 1.0
        if a.tag == "td" and (a.content or b.content):
            return edits(a.content, b.content) / max(len(a.content), len(b.content))
        return 0.0


def tree(text, with_text):
    def node(element):
        spans = tuple(int(element.attrib.get(name, "1")) for name in ("colspan", "rowspan"))
        content = element.text_content() if with_text and element.tag == "td" else ""
        return Node(element.tag, spans, content, [node(child) for child in element if element.tag != "td"])

    table = html.fromstring(text)
    return node(table), len(table.xpath(".//*"))


def official_teds(said, wanted, with_text):
    (a, n_a), (b, n_b) = tree(said, with_text), tree(wanted, with_text)
    return 1 - APTED(a, b, Costs()).compute_edit_distance() / max(n_a, n_b)


def written(rows):
    return "<table>" + "".join("<tr>" + "".join(row) + "</tr>" for row in rows) + "</table>"


def test_teds_is_apteds():
    rng = random.Random(0)

    def cell():
        spans, text = rng.choice(["", "", "", " colspan='2'"]), rng.choice(["", "a", "ab", "12", "13", "one", "x y"])
        return f"<td{spans}>{text}</td>"

    for _ in range(PAIRS):
        rows = [[cell() for _ in range(rng.randint(1, 4))] for _ in range(rng.randint(1, 4))]
        kept = [[one if rng.random() < 0.7 else cell() for one in row if rng.random() < 0.9] for row in rows]
        said = [row for row in kept if rng.random() < 0.9]
        said, wanted = written(said if any(said) else [[cell()]]), written(rows)
        assert teds(said, wanted) == pytest.approx(official_teds(said, wanted, True), abs=1e-9)
        assert teds_struct(said, wanted) == pytest.approx(official_teds(said, wanted, False), abs=1e-9)


def test_markdown_and_html_are_one_table():
    rng = random.Random(0)
    for _ in range(30):
        rows = [[rng.choice(["a", "12", "x y", "1 < 2"]) for _ in range(3)] for _ in range(rng.randint(2, 4))]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        markdown = "\n".join(["Table 1", "", lines[0], "|:--|---|--:|", *lines[1:]])
        as_html = written([[f"<td>{one.replace('<', '&lt;')}</td>" for one in row] for row in rows])
        assert teds(markdown, as_html) == teds(as_html, markdown) == 1.0


# --- unit tests of a page ---


def test_unit_tests_of_exact_text_are_python_s_own():
    rng = random.Random(0)
    for _ in range(PAIRS):
        said, wanted = drawn_texts(rng)
        parts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 2))) for _ in range(4)]
        tests = [{"type": "present", "text": parts[0]}, {"type": "present", "text": wanted.split()[0]}]
        tests += [{"type": "order", "before": parts[1], "after": parts[2]}, {"type": "absent", "text": parts[3]}]
        passed = [parts[0] in said, wanted.split()[0] in said, -1 < said.find(parts[1]) < said.find(parts[2])]
        expected = (sum(passed) + (parts[3] not in said) * sum(passed) / 3) / 4
        assert unit_tests(said, tests) == pytest.approx(expected)


PAGE = """# Fleet

**Ships** in “use”: $E = mc^2$

| City | Ships | Cars |
|---|---|---|
| Oslo | 41 | 9 |
| Bergen | 87 | 3 |
"""
CHECKS = [
    ({"type": "present", "text": 'Ships in "use"'}, True),
    ({"type": "present", "text": "Shipz in use", "max_diffs": 3}, True),
    ({"type": "present", "text": "Shipz in use", "max_diffs": 0}, False),
    ({"type": "present", "text": "fleet"}, False),
    ({"type": "present", "text": "fleet", "case_sensitive": False}, True),
    ({"type": "present", "text": "Fleet", "first_n": 10}, True),
    ({"type": "present", "text": "Fleet", "last_n": 10}, False),
    ({"type": "order", "before": "Fleet", "after": "Ships"}, True),
    ({"type": "order", "before": "Ships", "after": "Fleet"}, False),
    ({"type": "table", "cell": "87", "up": "41", "left": "Bergen", "right": "3"}, True),
    ({"type": "table", "cell": "87", "top_heading": "Ships", "left_heading": "Bergen"}, True),
    ({"type": "table", "cell": "87", "top_heading": "Cars"}, False),
    ({"type": "table", "cell": "41", "down": "87"}, True),
    ({"type": "table", "cell": "Oslo", "left": "41"}, False),
    ({"type": "math", "math": r"E=mc^{2}"}, False),
    ({"type": "math", "math": r"E = mc^2"}, True),
]


@pytest.mark.parametrize(("check", "passes"), CHECKS)
def test_each_kind_of_unit_test(check, passes):
    assert unit_tests(PAGE, [check]) == unit_tests(PAGE, {"tests": [check]}) == float(passes)


# --- adversarial ---

TABLE = [
    (anls, "", "a", 0.0),
    (anls, "a", None, None),
    (cer, "", "Main Street", 0.0),
    (cer, "Main Street " * 2000, "Main Street", 0.0),
    (cer, "x", "", None),
    (cer, "main street", "Main Street", 1 - 2 / 11),
    (wer, "dog a", "a dog", 0.0),
    (relaxed_accuracy, "3.5 %", "3.5", 1.0),
    (relaxed_accuracy, "2016", "2015", 0.0),
    (relaxed_accuracy, "2,016", "2,015", 1.0),
    (relaxed_accuracy, "0 1 2 3 4 5", "5", 0.0),
    (relaxed_accuracy, "x", None, None),
    (teds, "no table", "| a |\n| b |", 0.0),
    (teds, "| a |\n| b |", "no table", None),
    (teds, "<table>" + "<tr><td>a</td></tr>" * 5000 + "</table>", "| a |\n| b |", 0.0),
    (teds, "<table><tr><td>a", "<table><tr><td>a</td></tr></table>", 1.0),
    (teds, "<td>" * 3, "<table><tr><td></td><td></td><td></td></tr></table>", 1.0),
    (unit_tests, "", [{"type": "absent", "text": "x"}, {"type": "present", "text": "y"}], 0.0),
    (unit_tests, "y", [{"type": "absent", "text": "x"}], None),
    (unit_tests, "y", [{"type": "presence", "text": "x"}], None),
    (unit_tests, "y", [{"type": "present"}], None),
    (unit_tests, "y", [], None),
    (unit_tests, "y", "y", None),
]


@pytest.mark.parametrize(("scorer", "prediction", "solution", "expected"), TABLE)
def test_adversarial(scorer, prediction, solution, expected):
    assert scorer(prediction, solution) == (expected if expected is None else pytest.approx(expected))


def test_settings_are_checked(refusal):
    message = refusal(
        "{name: cer, settings: {floor: 2}}", "{name: relaxed_accuracy, settings: {relative_tolerance: 5}}"
    )
    assert "rewards.yaml:2: cer: floor: 2 must be from 0 to 1" in message
    assert ":3: relaxed_accuracy: relative_tolerance: 5 must be from 0 to below 1" in message
