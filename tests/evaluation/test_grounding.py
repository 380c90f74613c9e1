"""REC under its three protocols: annotation files in the true format, each rule by hand, and whole runs."""

import copy
import json
import random

import pytest
from PIL import Image

from omnirl_core.boxes import from_pixels, resized_size
from omnirl_core.rewards import Reward
from omnirl_core.rewards.grounding import box_iou
from omnirl_tools.evaluation.compare import compare
from omnirl_tools.evaluation.generate import Generation
from omnirl_tools.evaluation.grounding import (
    PROTOCOLS,
    RecResult,
    choose_rows,
    evaluate_rec,
    judge,
    load_rec,
    rec_table,
)
from omnirl_tools.evaluation.intervals import wilson_interval

SIZES = ((640, 427), (480, 640), (1080, 1920))  # as in COCO, upright, and large
ROBUST, JUNE, FEBRUARY = PROTOCOLS["robust"], PROTOCOLS["vlmr1-2025-06"], PROTOCOLS["vlmr1-2025-02"]


def annotation(number: int, image: str, size: tuple[int, int]) -> dict:
    """One object of an annotation file, with every key that VLM-R1's files have."""
    width, height = size
    x, y, w, h = 10.5 + number % 5, 20.25, width / 3, height / 3
    solution = [x, y, x + w + 1, y + h + 1]
    return {
        "height": height, "width": width, "id": number, "original_id": number, "dataset_name": "refcoco",
        "area": w * h, "iscrowd": 0, "image_id": number, "category_id": 1,
        "bbox_list": [[x, y, x + w, y + h]], "text_type": "caption", "image": image,
        "problem": "Please provide the bounding box coordinate of the region this sentence describes: "
        f"the lady with the blue shirt {number}.",
        "normal_caption": f"the lady with the blue shirt {number}", "solution": solution,
        "normalized_solution": [int(v / side * 1000) for v, side in zip(solution, size * 2, strict=True)],
    }  # fmt: skip


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> tuple[list[str], str]:
    """Paths of two annotation files, and the image root."""
    root = tmp_path_factory.mktemp("coco")
    (root / "train2014").mkdir()
    for number, size in enumerate(SIZES):
        Image.new("RGB", size, (40 * number, 90, 160)).save(root / f"train2014/COCO_train2014_{number:012}.jpg")
    files = []
    for name, n in (("refcoco_val", 9), ("refcocop_val", 6)):
        rows = [
            annotation(number, f"train2014/COCO_train2014_{number % 3:012}.jpg", SIZES[number % 3])
            for number in range(n)
        ]
        files.append(str(root / f"{name}.json"))
        (root / f"{name}.json").write_text(json.dumps(rows))
    return files, str(root)


def question(solution, number: int = 1) -> dict:
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
    return {
        "prompt": prompt, "images": ["a.jpg"], "solution": solution, "task": "rec", "problem": "?",
        "row_id": f"r:{number}",
    }  # fmt: skip


def said(box, size=(640, 427), clipped=False, form='<think>so</think><answer>{{"bbox_2d": {}}}</answer>'):
    return Generation(form.format(box), (1, 2), clipped, (size,), (resized_size(size),))


def test_files_are_read_as_they_are_distributed(annotations):
    files, root = annotations
    sets = load_rec(files, root)
    assert {name: len(rows) for name, rows in sets.items()} == {"refcoco_val": 9, "refcocop_val": 6}
    row = sets["refcoco_val"][4]
    assert row["solution"] == annotation(4, "", SIZES[1])["solution"]
    assert row["images"] == [f"{root}/train2014/COCO_train2014_{1:012}.jpg"]
    assert (row["task"], row["row_id"]) == ("refcoco_val", f"{files[0]}:{row['row_id'].rsplit(':')[-1]}")
    (turn,) = row["prompt"]
    assert [block["type"] for block in turn["content"]] == ["image", "text"]
    assert turn["content"][1]["text"] == (
        "Please provide the bounding box coordinate of the region this sentence describes: the lady with the blue "
        "shirt 4. First output the thinking process in <think> </think> tags and then output the final answer in "
        "<answer> </answer> tags. Output the final answer in JSON format."
    )
    plain = load_rec(files[:1], root, template="rec")["refcoco_val"][0]["prompt"][0]["content"][1]["text"]
    assert plain.endswith("shirt 0. Please provide the bounding box coordinate in JSON format.")


@pytest.mark.parametrize("protocol", [JUNE, FEBRUARY])
def test_rows_are_those_that_pythons_shuffle_puts_first(protocol):
    sets = {name: [f"{name}{k}" for k in range(n)] for name, n in (("a", 3000), ("b", 700), ("c", 40))}
    state = random.getstate()
    try:
        expected = {}
        random.seed(42)
        for name, rows in copy.deepcopy(sets).items():
            if protocol is JUNE:
                random.seed(42)
            random.shuffle(rows)
            expected[name] = rows[: 2000 if protocol is JUNE else 500]
    finally:
        random.setstate(state)
    assert choose_rows(protocol, sets) == expected
    assert random.getstate() == state
    only_b = choose_rows(protocol, {"b": sets["b"]})["b"]
    assert (only_b == expected["b"]) == (protocol is JUNE)  # one stream: the order of the data sets matters


def test_robust_takes_all_rows_in_order():
    assert choose_rows(ROBUST, {"a": ["x", "y", "z"]}) == {"a": ["x", "y", "z"]}


@pytest.mark.parametrize("size", SIZES)
def test_resized_answers_count_in_2025_06_and_raw_ones_in_2025_02(size):
    reference = [size[0] * 0.7, size[1] * 0.7, size[0] * 0.8, size[1] * 0.8]
    resized = [round(v) for v in from_pixels(reference, "resized", size, resized_size(size))]
    raw = [round(v) for v in reference]
    found = {}
    for protocol in (JUNE, FEBRUARY):
        result = judge(
            "d", [question(reference)] * 2, [said(resized, size), said(raw, size)], protocol, protocol.space
        )
        found[protocol.name] = [line["rewards"]["iou"] for line in result.lines]
    assert found["vlmr1-2025-06"][0] > 0.9
    assert found["vlmr1-2025-02"][1] > 0.9
    if size == (1080, 1920):  # resized by a third: the other reading misses
        assert found["vlmr1-2025-06"][1] < 0.5
        assert found["vlmr1-2025-02"][0] < 0.5


@pytest.mark.parametrize(
    ("box", "form", "hit"),
    [  # the solution is [0, 0, 100, 100]; which protocols count the answer: robust, June, February
        ("[0, 0, 100, 100]", "<think>a</think><answer>{{{}}}</answer>", (True, True, True)),
        ("[0, 0, 100, 51]", "<think>a</think><answer>{{{}}}</answer>", (True, True, True)),
        (
            "[0, 0, 100, 50]",
            "<think>a</think><answer>{{{}}}</answer>",
            (True, False, False),
        ),  # at .5: >= or >
        ("[0, 0, 100, 49]", "<think>a</think><answer>{{{}}}</answer>", (False, False, False)),
        ("[0, 0, 100, 100]", "<think>a</think><answer>{}</answer>", (True, False, False)),  # no braces
        ("[0, 0, 100.0, 100]", "<think>a</think><answer>{{{}}}</answer>", (True, False, False)),  # a decimal
        (
            "[0, 0, 100, 100]",
            "<think>a</think><answer>\n{{{}}}\n</answer>",
            (True, True, False),
        ),  # a line break
        ("[0, 0, 100, 100]", "<think>a\n</think>\n<answer>{{{}}}</answer>", (True, True, True)),
        ("[0, 0, 100, 100]", "{{{}}}", (False, False, False)),  # no tags
        ("[0, 0, 100, 100]", "<answer>{{{}}}", (False, False, False)),  # cut off
        ("[0, 0, 100, 100]", "<answer>{{[9, 9, 12, 12], {}}}</answer>", (True, True, True)),  # last of two
        ("[0, 0, 100, 100]", "<answer>{{{}, [9, 9, 12, 12]}}</answer>", (False, False, False)),
        (
            "[0, 0, 100, 100]",
            "<answer>{{{}}}</answer><answer>[]</answer>",
            (False, True, True),
        ),  # first, last answer
        (
            "[0, 0, 100, 100]",
            "<answer>{{[9, 9, 12, 12]}}</answer><answer>{{{}}}</answer>",
            (True, False, False),
        ),
        ("[100, 100, 0, 0]", "<answer>{{{}}}</answer>", (True, False, False)),  # corners the other way round
    ],
)
def test_what_each_protocol_counts(box, form, hit):
    answer = Generation(form.format(box), (1,), False, ((100, 100),), ((100, 100),))
    found = [
        judge("d", [question([0, 0, 100, 100])], [answer], protocol, "pixels").accuracy() == 1.0
        for protocol in (ROBUST, JUNE, FEBRUARY)
    ]
    assert tuple(found) == hit


def test_figures_by_hand():
    reference = [0, 0, 100, 100]
    rows = [question(reference, number) for number in range(5)]
    boxes = ["[0, 0, 100, 100]", "[0, 0, 100, 60]", "[0, 0, 100, 30]", "[50, 0, 150, 100]"]
    answers = [said(box, (100, 100)) for box in boxes] + [said("none", clipped=True)]
    result = judge("refcoco_val", rows, answers, ROBUST, "pixels")
    assert result.n == 5
    assert result.hits == {0.25: 4, 0.5: 2, 0.75: 1}
    assert result.mean_iou == pytest.approx((1 + 0.6 + 0.3 + 1 / 3 + 0) / 5)
    assert (result.n_unparsed, result.n_clipped) == (1, 1)
    assert result.interval() == wilson_interval(2, 5)
    assert result.figures() == {
        "dataset": "refcoco_val", "protocol": "robust", "n": 5, "acc@0.25": 0.8, "acc@0.5": 0.4, "acc@0.75": 0.2,
        "acc@0.5_low": wilson_interval(2, 5)[0], "acc@0.5_high": wilson_interval(2, 5)[1],
        "mean_iou": result.mean_iou, "parse_failure_rate": 0.2, "clipped_rate": 0.2,
    }  # fmt: skip
    assert [line["box"] for line in result.lines][:2] == [[0, 0, 100, 100], [0, 0, 100, 60]]
    assert result.lines[4]["box"] is None
    assert result.lines[4]["rewards"] == {"acc@0.5": 0.0, "iou": 0.0, "parsed": 0.0}


def test_published_intervals():
    """Published figures: 86 % of 2,000 is +-1.5 points, 72 % of 500 is +-3.9."""
    for share, n, reach in ((0.86, 2000, 0.015), (0.72, 500, 0.039)):
        result = RecResult("d", "robust", n, {0.5: round(share * n)}, 0.0, 0, 0)
        low, high = result.interval()
        assert (high - low) / 2 == pytest.approx(reach, abs=0.0005)


def test_robust_agrees_with_the_reward_of_training():
    draw = random.Random(0)
    reward = Reward("box_iou", box_iou, settings={"space": "0-1000"})
    rows = [question([10 * (k % 7), 5, 300, 200 + k], k) for k in range(300)]
    forms = ["<answer>{{{}}}</answer>", "<answer>{}</answer>", "{}", "<think>{}</think><answer>{}</answer>"]
    answers = []
    for _ in rows:
        box = [draw.randint(-50, 1100) for _ in range(4)]
        answers.append(said(box, form=draw.choice(forms).replace("{}</think>", "x</think>")))
    result = judge("d", rows, answers, ROBUST, "0-1000")
    expected = reward(
        completions=[[{"role": "assistant", "content": answer.text}] for answer in answers],
        solution=[row["solution"] for row in rows],
        image_sizes=[list(answer.image_sizes) for answer in answers],
    )
    assert [line["rewards"]["iou"] for line in result.lines] == expected
    assert len(set(expected)) > 100


def test_lines_pair_for_a_comparison():
    rows = [question([0, 0, 100, 100], number) for number in range(4)]
    far, near = said("[0, 0, 10, 10]", (100, 100)), said("[0, 0, 100, 90]", (100, 100))
    before = judge("refcoco_val", rows, [far, far, near, far], ROBUST, "pixels")
    after = judge("refcoco_val", rows, [near, near, near, far], ROBUST, "pixels")
    score = next(change for change in compare(before.lines, after.lines) if change.measure == "score")
    assert (score.before, score.after, score.wins, score.losses) == (0.25, 0.75, 2, 0)
    assert score.p_value == 0.5  # McNemar: two of two


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_whole_run(annotations, policy, processor, protocol):
    """The tiny policy answers noise: what matters is that each row is asked, answered and counted."""
    files, root = annotations
    shorter = PROTOCOLS[protocol].__class__(**{**PROTOCOLS[protocol].__dict__, "max_new_tokens": 4})
    results = evaluate_rec(policy, processor, load_rec(files, root), shorter, batch_size=4)
    assert {name: result.n for name, result in results.items()} == {"refcoco_val": 9, "refcocop_val": 6}
    for result in results.values():
        assert (result.n_unparsed, result.n_clipped, result.accuracy()) == (result.n, result.n, 0.0)
        assert {line["n_tokens"] for line in result.lines} == {4}
        assert len({line["problem"] for line in result.lines}) == result.n
    text = rec_table(results)
    assert text.splitlines()[2].split()[:3] == ["refcoco_val", "9", "0.00%"]
    assert text.splitlines()[-1].split() == ["mean", "0.00%"]


def test_solutions_that_are_no_box_are_refused_by_name():
    rows = [question([0, 0, 5, 5], 1), question("a dog", 2), question([3, 3, 3, 9], 3), question(None, 4)]
    with pytest.raises(ValueError, match=r"r:2: solution 'a dog' is no box\nr:3: .*\nr:4: .*None is no box\n.*pixels"):
        judge("refcoco_val", rows, [said("[0, 0, 5, 5]")] * 4, ROBUST, "pixels")
    with pytest.raises(ValueError, match="no rows to judge"):
        judge("refcoco_val", [], [], ROBUST, "pixels")
