"""A few rows of each hub data set of recipes/datasets, in its schema: columns, types, splits, forms of the values.

The schemas are from what each YAML names as its source; contents are made up. Images have one colour.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as Pixels

TEXT, WHOLE = Value("string"), Value("int64")
Row = dict[str, Any]


@dataclass(frozen=True)
class Replica:
    """A data set, and the first sample that a recipe makes of it."""

    hub: str
    features: dict[str, Any]
    row: Callable[[int], Row]
    problem: str
    solution: object
    splits: dict[str, int] = field(default_factory=lambda: {"train": 5, "test": 2})
    """Rows of each; a split that a recipe cuts has more."""
    config: str = "default"
    n_images: int = 1
    options: list[str] | None = None

    def write(self, folder: Path) -> None:
        """As the hub keeps it: a Parquet file a split, and a card that says which is which."""
        home = folder / self.hub
        home.mkdir(parents=True)
        lines = [f"- config_name: {self.config}", "  data_files:"]
        first = 0
        for split, size in self.splits.items():
            rows = [self.row(first + n) for n in range(size)]
            first += size  # no row stands in two splits
            Dataset.from_list(rows, features=Features(self.features)).to_parquet(home / f"{split}.parquet")
            lines += [f"  - split: {split}", f"    path: {split}.parquet"]
        (home / "README.md").write_text("\n".join(["---", "configs:", *lines, "---", ""]))


def image(n: int, size: tuple[int, int] = (56, 56)) -> Pixels.Image:
    return Pixels.new("RGB", size, (40 + 5 * n % 200, 90, 160))  # another one for each row


def geometry3k(n: int) -> Row:
    answer = ("2 \\sqrt { 221 }", "15", "3.5", "\\frac { 1 } { 2 }")[n % 4]
    return {"images": [image(n)], "problem": f"<image>In figure {n}, find the length of AC.", "answer": answer}


def clevr_count(n: int) -> Row:
    start = "<image>" * (n % 2)  # with and without: which of them the set has could not be verified
    problem = f"{start}How many different items are there in image {n}?"
    return {"images": [image(n)], "problem": problem, "answer": str(3 + n % 8)}


def open_r1_8k(n: int) -> Row:
    said, choices = ("B", "12", "\\frac{3}{4}", "Yes")[n % 4], "\nChoices:\n(A) 3\n(B) 4" * (n % 4 == 0)
    return {
        "image": image(n), "problem": f"What follows from figure {n}?{choices}",
        "solution": f"<think>Look at figure {n}.\nSo it is {said}.</think>\n\n<answer>{said}</answer>",
        "original_question": f"Figure {n}?", "original_answer": f"The answer is {said}",
    }  # fmt: skip


def chartqa(n: int) -> Row:
    label = [("14", "Spain", "Yes", "0.57")[n % 4]]
    return {"image": image(n), "query": f"What is the value of bar {n}?", "label": label, "human_or_machine": n % 2}


def docvqa(n: int) -> Row:
    return {
        "questionId": str(49153 + n), "question": f"What is the date of letter {n}?", "question_types": ["handwritten"],
        "image": image(n), "docId": 14465 + n, "ucsf_document_id": "pybv0228", "ucsf_document_page_no": "81",
        "answers": [f"January {n + 1}, 1988", f"Jan {n + 1}, 1988"], "data_split": "val",
    }  # fmt: skip


def textvqa(n: int) -> Row:
    question = f"what is written on sign {n}?"
    return {
        "image_id": f"003a8ae2ef43b90{n}", "question_id": 34602 + n, "question": question,
        "question_tokens": question.rstrip("?").split(), "image": image(n), "image_width": 56, "image_height": 56,
        "flickr_original_url": "https://example.com/o.jpg", "flickr_300k_url": "https://example.com/z.jpg",
        "answers": ["dakota"] * 6 + ["dakota digital"] * 3 + ["dollar"], "image_classes": ["Camera"],
        "set_name": "train", "ocr_tokens": ["DAKOTA"],
    }  # fmt: skip


def aokvqa(n: int) -> Row:
    return {
        "image": image(n), "question_id": f"22MexNkBPpdZGX6sxbxVB{n}", "question": f"What is man {n} awaiting?",
        "choices": ["skateboarder", "train", "delivery", "cab"], "correct_choice_idx": (3 + n) % 4,
        "direct_answers": "['ride', 'ride', 'bus', 'taxi']", "difficult_direct_answer": False,
        "rationales": ["He has luggage.", "He stands at the street."],
    }  # fmt: skip


def scienceqa(n: int) -> Row:
    empty = dict.fromkeys(("subject", "topic", "category", "skill"), "geography")
    return {
        "image": None if n % 2 else image(n), "question": f"Which of these states is farthest {'north' * (n + 1)}?",
        "choices": ["West Virginia", "Louisiana", "Arizona", "Oklahoma"][: 2 + n % 3], "answer": n % 2,
        "hint": "Look at the map." if n % 3 == 0 else "", "task": "closed choice", "grade": "grade2", **empty,
        "lecture": "Maps have four cardinal directions.", "solution": "To find the answer, look at the compass rose.",
    }  # fmt: skip


def refcoco(n: int) -> Row:
    return {
        "question_id": str(n), "image": image(n, (84, 56)), "question": "Please carefully observe the area circled.",
        "answer": [f"man {n} in red", "the left guy"], "segmentation": [10.0, 8.0, 40.5, 8.0, 40.5, 36.0],
        "bbox": [10.0, 8.0, 30.5, 28.0], "iscrowd": 0, "file_name": "COCO_train2014_000000581857_16.jpg",
    }  # fmt: skip


def screenspot(n: int) -> Row:
    return {
        "file_name": f"pc_{n}.png", "bbox": [0.25, 0.5, 0.375, 0.75], "instruction": f"close window {n}",
        "data_type": "icon", "data_source": "windows", "image": image(n, (112, 56)),
    }  # fmt: skip


def coco_captions(n: int) -> Row:
    captions = [f"A man rides wave {n} on a board.", "A surfer in the sea.", "Someone surfs.", "A wave.", "A surfer."]
    return {
        "question_id": f"COCO_val2014_00000{n}.jpg", "image": image(n), "question": "Please caption the image.",
        "answer": captions, "id": n, "license": 3, "file_name": f"COCO_val2014_00000{n}.jpg",
        "coco_url": "http://example.com/1.jpg", "height": 56, "width": 56, "date_captured": "2013-11-14 11:18:45",
    }  # fmt: skip


def gsm8k(n: int) -> Row:
    total = ("72", "1,250", "0.5", "-4")[n % 4]
    return {
        "question": f"Natalia sold clips to {n} friends. How many in all?",
        "answer": f"She sold 48/2 = <<48/2=24>>24 clips in May.\nIn all that is {total}.\n#### {total}",
    }


def strings(names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), TEXT)


CUT = 40
"""Rows of a split that a recipe cuts by percent."""
REPLICAS = {
    "geometry3k": Replica(
        "hiyouga/geometry3k", {"images": List(Image())} | strings("problem answer"), geometry3k,
        "<image>In figure 0, find the length of AC.", "2 \\sqrt { 221 }",
        {"train": 5, "validation": 1, "test": 2},
    ),
    "clevr_count": Replica(
        "BUAADreamer/clevr_count_70k", {"images": List(Image())} | strings("problem answer"), clevr_count,
        "How many different items are there in image 0?", "3",
    ),
    "open_r1_8k": Replica(
        "lmms-lab/multimodal-open-r1-8k-verified",
        {"image": Image()} | strings("problem solution original_question original_answer"), open_r1_8k,
        "What follows from figure 1?", "12", {"train": CUT},
    ),
    "chartqa": Replica(
        "HuggingFaceM4/ChartQA",
        {
            "image": Image(), "query": TEXT, "label": List(TEXT),
            "human_or_machine": ClassLabel(names=["human", "machine"]),
        },
        chartqa, "What is the value of bar 0?", ["14"], {"train": 5, "val": 2, "test": 1},
    ),
    "docvqa": Replica(
        "lmms-lab/DocVQA",
        {
            "questionId": TEXT, "question": TEXT, "question_types": List(TEXT), "image": Image(), "docId": WHOLE,
            "ucsf_document_id": TEXT, "ucsf_document_page_no": TEXT, "answers": List(TEXT), "data_split": TEXT,
        },
        docvqa, "What is the date of letter 4?", ["January 5, 1988", "Jan 5, 1988"], {"validation": CUT}, "DocVQA",
    ),
    "textvqa": Replica(
        "lmms-lab/textvqa",
        strings("image_id question set_name flickr_original_url flickr_300k_url")
        | dict.fromkeys(("question_id", "image_width", "image_height"), Value("int32"))
        | dict.fromkeys(("question_tokens", "answers", "image_classes", "ocr_tokens"), List(TEXT))
        | {"image": Image()},
        textvqa, "what is written on sign 0?", ["dakota"] * 6 + ["dakota digital"] * 3 + ["dollar"],
        {"train": 5, "validation": 2, "test": 1},
    ),
    "aokvqa": Replica(
        "HuggingFaceM4/A-OKVQA",
        {
            "image": Image(), "question_id": TEXT, "question": TEXT, "choices": List(TEXT),
            "correct_choice_idx": Value("int8"), "direct_answers": TEXT, "difficult_direct_answer": Value("bool"),
            "rationales": List(TEXT),
        },
        aokvqa, "What is man 0 awaiting?", "D", {"train": 5, "validation": 2},
        options=["skateboarder", "train", "delivery", "cab"],
    ),
    "scienceqa": Replica(
        "derek-thomas/ScienceQA",
        {"image": Image(), "choices": List(TEXT), "answer": Value("int8")}
        | strings("question hint task grade subject topic category skill lecture solution"),
        scienceqa, "Look at the map.\nWhich of these states is farthest north?", "A",
        {"train": 6, "validation": 2, "test": 1}, options=["West Virginia", "Louisiana"],
    ),
    "refcoco": Replica(
        "lmms-lab/RefCOCO",
        {
            "question_id": TEXT, "image": Image(), "question": TEXT, "answer": List(TEXT),
            "segmentation": List(Value("float32")), "bbox": List(Value("float32")), "iscrowd": Value("int8"),
            "file_name": TEXT,
        },
        refcoco, "Please provide the bounding box coordinate of the region this sentence describes: man 0 in red",
        [10.0, 8.0, 40.5, 36.0], {"val": 5, "test": 1, "testA": 2, "testB": 1},
    ),
    "screenspot": Replica(
        "rootsautomation/ScreenSpot",
        {"bbox": List(Value("float64")), "image": Image()} | strings("file_name instruction data_type data_source"),
        screenspot, "close window 4", [0.25, 0.5, 0.375, 0.75], {"test": CUT},
    ),
    "coco_captions": Replica(
        "lmms-lab/COCO-Caption",
        {
            "image": Image(), "answer": List(TEXT), "id": WHOLE, "license": Value("int8"), "height": Value("int32"),
            "width": Value("int32"),
        } | strings("question_id question file_name coco_url date_captured"),
        coco_captions, "Describe the image in one sentence.",
        ["A man rides wave 1 on a board.", "A surfer in the sea.", "Someone surfs.", "A wave.", "A surfer."],
        {"val": CUT},
    ),
    "gsm8k": Replica(
        "openai/gsm8k", strings("question answer"), gsm8k, "Natalia sold clips to 0 friends. How many in all?", "72",
        config="main", n_images=0,
    ),
}  # fmt: skip
"""By the name of the recipe."""
