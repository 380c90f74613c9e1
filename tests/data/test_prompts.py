"""Prompts: an image part per image in order, templates per task, the same for text and for images."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.data_utils import prepare_multimodal_messages

from omnirl_core.data import TEMPLATES, DataError, PromptFormat, load_dataset, load_records
from omnirl_tools.checks.row_check import RowCheck

PLAIN = PromptFormat({"default": "plain"})


def content(problem, n_images, prompts=PLAIN, task=None):
    (turn,) = prompts.messages(problem, n_images, task)
    assert turn["role"] == "user"
    return turn["content"]


def flat(blocks):
    """Blocks as one text, to compare with what was asked for."""
    return "".join("<image>" if block["type"] == "image" else block["text"] for block in blocks)


@pytest.mark.parametrize(
    ("problem", "n_images", "expected"),
    [
        ("Why?", 0, "Why?"),
        ("Why?", 1, "<image>Why?"),
        ("Why?", 3, "<image><image><image>Why?"),
        ("<image>Why?", 1, "<image>Why?"),
        ("<image>\nWhy?", 1, "<image>Why?"),  # VLM-R1 writes the line break, the original has no placeholder
        ("<image>\n<image>\nWhy?", 2, "<image><image>Why?"),
        ("A <image> B <image>?", 2, "A <image> B <image>?"),
        ("<image> A <image>", 2, "<image>A <image>"),
        ("A<image><image>", 2, "A<image><image>"),
        ("  keep\n", 1, "<image>  keep\n"),
        ("<image>", 1, "<image>"),
    ],
)
def test_images_stand_where_the_text_has_them(problem, n_images, expected):
    blocks = content(problem, n_images)
    assert flat(blocks) == expected
    assert sum(block["type"] == "image" for block in blocks) == n_images
    assert all(block.get("text") != "" for block in blocks)
    assert all(set(block) == ({"type"} if block["type"] == "image" else {"type", "text"}) for block in blocks)


@pytest.mark.parametrize(("problem", "n_images"), [("<image>", 0), ("<image> <image>?", 1), ("a <image>", 3)])
def test_a_count_that_does_not_match_is_refused(problem, n_images):
    with pytest.raises(ValueError, match=f"for {n_images} images"):
        content(problem, n_images)


def test_text_and_image_rows_are_asked_in_the_same_words():
    prompts = PromptFormat({"boxes": "rec_r1", "caption": "Say it short. {problem} Now."}, system_prompt="Be brief.")
    for n_images in (0, 1, 2):
        system, user = prompts.messages("What?", n_images, "caption")
        assert system == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
        assert user["content"][-1] == {"type": "text", "text": "Say it short. What? Now."}
        assert len(user["content"]) == n_images + 1


def test_each_task_has_its_own_template_and_r1_is_for_the_rest():
    prompts = PromptFormat({"boxes": "rec_r1"})
    assert flat(content("Q", 0, prompts, "boxes")) == (
        "Q First output the thinking process in <think> </think> tags and then output the final answer in"
        " <answer> </answer> tags. Output the final answer in JSON format."
    )
    for task in (None, "color", "default"):
        assert flat(content("Q", 0, prompts, task)).endswith("in <answer> </answer> tags.")
    assert flat(content("Q", 0, PromptFormat({"default": "plain"}), "boxes")) == "Q"


def test_only_the_problem_is_filled_in():
    prompts = PromptFormat({"default": 'Answer like {"box": [1, {n}]}: {problem}'})
    assert (
        flat(content("a {problem} {x} %s \\1", 0, prompts)) == 'Answer like {"box": [1, {n}]}: a {problem} {x} %s \\1'
    )


def test_a_template_surrounds_inline_images():
    prompts = PromptFormat({"default": "Look. {problem} Think."})
    assert flat(content("A <image> or <image>", 2, prompts)) == "Look. A <image> or <image> Think."
    assert flat(content("<image>\nWhy?", 1, prompts)) == flat(content("Why?", 1, prompts))


@pytest.mark.parametrize("template", ["r2", "", "{problem} {problem}", "no slot", "<image>{problem}", 3, None])
def test_a_template_that_cannot_work_is_refused_by_name(template):
    with pytest.raises(ValueError, match="template of 'boxes'"):
        PromptFormat({"boxes": template})


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_format_pickles(name):
    prompts = PromptFormat({"default": name})
    assert pickle.loads(pickle.dumps(prompts)).messages("Q", 1, None, "[1]") == prompts.messages("Q", 1, None, "[1]")


@given(st.lists(st.text(alphabet="ab \n<>", max_size=6), min_size=1, max_size=5), st.booleans())
def test_trl_finds_as_many_placeholders_as_images(texts, system):
    problem = "<image>".join(texts)
    n_images = problem.count("<image>")
    prompt = PromptFormat({}, "Be brief." if system else None).messages(problem, n_images)
    images = [object() for _ in range(n_images)]
    filled = prepare_multimodal_messages(prompt, images=images)  # raises where the counts differ
    assert [b["image"] for turn in filled for b in turn["content"] if b["type"] == "image"] == images
    reported = "".join(b["text"] for b in prompt[-1]["content"] if b["type"] == "text")
    assert "".join("".join(texts).split()) == "".join(reported.split("First output")[0].split())


OPTIONS = "A. red\nB. blue"


@pytest.mark.parametrize(
    "options", [["red", "blue"], ["A. red", "B. blue"], {"a": "red", "b": "blue"}, '["red", "blue"]', ("red", "blue")]
)
def test_options_are_listed_with_their_letters(options):
    prompts = PromptFormat({"default": "{problem}\n{options}\n{not this}"})
    assert flat(prompts.messages("Which?", 0, None, options)[0]["content"]) == f"Which?\n{OPTIONS}\n{{not this}}"


def test_the_template_choice_asks_for_a_letter():
    text = flat(PromptFormat({"default": "choice"}).messages("Which?", 1, None, ["red", "blue"])[0]["content"])
    assert f"Which?\n{OPTIONS}\n First output" in text
    assert text.endswith("The answer is the letter of one option.")


@pytest.mark.parametrize("options", [None, [], "", "red", 3, "{"])
def test_a_sample_without_options_is_named(options, tmp_path):
    row = {"problem": "Which?", "solution": "A", "options": options}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"a\.jsonl:1: the template has \{options\}"):
        load_dataset(tmp_path / "a.jsonl", templates={"default": "choice"})
    found = RowCheck(prompts=PromptFormat({"default": "choice"})).many(load_records(tmp_path / "a.jsonl"))
    assert [fault.kind for fault in found[0].faults] == ["row"]


def test_options_of_a_sample_reach_its_prompt(tmp_path):
    row = {"problem": "Which? {problem}", "solution": "A", "options": ["{problem}", "blue"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    [made] = load_dataset(tmp_path / "a.jsonl", templates={"default": "{problem}\n{options}"})
    assert flat(made["prompt"][0]["content"]) == "Which? {problem}\nA. {problem}\nB. blue"
