"""`omnirl init`: any layout becomes a folder whose data and rewards pass their checks, or one message says why not."""

import csv
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from omnirl_core.data import load_records
from omnirl_core.shapes import tiny_policy
from omnirl_core.yaml_loader import read_config
from omnirl_tools.cli import main
from omnirl_tools.init.columns import UnreadableColumns, find_columns
from omnirl_tools.init.data import read_data
from omnirl_tools.init.model import DEFAULT, fit, read_model
from omnirl_tools.memory import Prompt
from omnirl_tools.sft import parse_sft

COLORS = ["red", "green", "blue", "yellow"]
N = 40


def png(number: int) -> bytes:
    """An image of its own for each number."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48 + number), COLORS[number % 4]).save(file, "PNG")
    return file.getvalue()


def images(folder):
    (folder / "pics").mkdir(parents=True)
    for number in range(N):
        (folder / "pics" / f"{number}.png").write_bytes(png(number))


def as_csv(folder):
    images(folder)
    with open(folder / "qa.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Question", "Answer", "photo"])
        writer.writerows(["Which color?", COLORS[number % 4], f"{number}.png"] for number in range(N))
    return folder


def as_messages(folder):
    images(folder)
    lines = []
    for number in range(N):
        content = [{"type": "image", "image": f"pics/{number}.png"}, {"type": "text", "text": "Which color?"}]
        answer = {"role": "assistant", "content": [{"type": "text", "text": COLORS[number % 4]}]}
        lines.append({"messages": [{"role": "user", "content": content}, answer]})
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "chats.jsonl"


def as_vlmr1(folder):
    images(folder)
    lines = [
        {"image": f"pics/{number}.png", "conversations": [
            {"from": "human", "value": "<image>Which color?"}, {"from": "gpt", "value": COLORS[number % 4]}]}
        for number in range(N)
    ]  # fmt: skip
    (folder / "talks.json").write_text(json.dumps(lines))
    return folder / "talks.json"


def as_parquet(folder):
    folder.mkdir()
    rows = [
        {"query": f"Which color? {number}", "choices": COLORS, "label": number % 4, "img": png(number)}
        for number in range(N)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "part.parquet")
    return folder / "part.parquet"


def as_saved(folder):
    features = Features({"instruction": Value("string"), "output": Value("string"), "images": [ImageFeature()]})
    rows = {
        "instruction": [f"Which color, and which is larger? {number}" for number in range(N)],
        "output": [COLORS[number % 4] for number in range(N)],
        "images": [
            [{"bytes": png(number), "path": None}, {"bytes": png(number + 1), "path": None}] for number in range(N)
        ],
    }
    Dataset.from_dict(rows, features=features).save_to_disk(folder)
    return folder


def as_text(folder):
    folder.mkdir()
    lines = [{"q": f"What is {number} + 4?", "gt": number + 4} for number in range(N)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines[:30])))
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, lines[30:])))
    return folder


def as_hub_folder(folder):
    """What `git clone` of a hub data set gives: splits, one of them in parts."""
    (folder / "data").mkdir(parents=True)
    (folder / "dataset_infos.json").write_text("{}")
    rows = [{"question": f"Which color? {n}", "answer": COLORS[n % 4], "image": png(n)} for n in range(N)]
    parts = {"train-00000-of-00002": rows[:20], "train-00001-of-00002": rows[20:30], "test-00000-of-00001": rows[30:]}
    for name, part in parts.items():
        pq.write_table(pa.Table.from_pylist(part), folder / "data" / f"{name}.parquet")
    return folder


def as_image_folder(folder):
    """`imagefolder` of datasets."""
    (folder / "train").mkdir(parents=True)
    lines = [{"file_name": f"{n}.png", "question": "Which color?", "answer": COLORS[n % 4], "id": n} for n in range(N)]
    for number in range(N):
        (folder / "train" / f"{number}.png").write_bytes(png(number))
    (folder / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def as_image_urls(folder):
    """OpenAI's chats, with the question around the image."""
    images(folder)
    lines = []
    for number in range(N):
        content = [
            {"type": "text", "text": "In this image: "},
            {"type": "image_url", "image_url": {"url": f"pics/{number}.png"}},
            {"type": "text", "text": " which color is it?"},
        ]
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": COLORS[number % 4]}]
        lines.append({"messages": turns})
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "chats.jsonl"


LAYOUTS = [as_hub_folder, as_image_folder, as_image_urls, as_csv, as_messages, as_vlmr1, as_parquet, as_saved, as_text]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_what_it_writes_passes_the_checks(layout, tmp_path, monkeypatch, capsys):
    data = layout(tmp_path / "theirs")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine", "--data", str(data.relative_to(tmp_path)), "--model", "tiny_policy"]) == 0
    said = capsys.readouterr().out
    assert "omnirl sft mine/sft.yaml\n  omnirl train mine/config.yaml --model_name_or_path mine/warm_start" in said
    assert main(["check-data", "mine/config.yaml", "--workers", "1"]) == 0, capsys.readouterr()
    assert main(["check-rewards", "mine/config.yaml", "--workers", "1"]) == 0, capsys.readouterr()
    config = read_config("mine/config.yaml")
    parts = [load_records(config[key], config.get("image_root")) for key in ("dataset_name", "eval_dataset_name")]
    assert len(parts[0]) + len(parts[1]) == N
    assert len(parts[1]) >= 8
    n_images = {"as_saved": 2, "as_text": 0}.get(layout.__name__, 1)
    assert all(len(record.images) == n_images for part in parts for record in part)
    answers = {str(record.solution) for part in parts for record in part}
    assert answers == {"as_parquet": set("ABCD"), "as_text": {str(n + 4) for n in range(N)}}.get(
        layout.__name__, {*COLORS}
    )
    _, training, _ = parse_sft(["--config", "mine/sft.yaml"])
    assert training.output_dir == "mine/warm_start"
    assert 0 < training.stop_at_accuracy < 1, "it leaves GRPO something to learn"


def test_every_value_has_a_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    as_csv(tmp_path / "theirs")
    main(["init", "mine", "--data", "theirs", "--gpu_memory", "24"])
    assert main(["estimate-memory", "mine/config.yaml", "--gpu_memory", "24"]) == 0
    text = (tmp_path / "mine" / "config.yaml").read_text()
    follows = (
        "lora_alpha",
        "lora_target_modules",
        "freeze_vision_tower",
        "output_dir",
    )  # one reason for several lines
    lines = [line for line in text.splitlines() if line and line[0] != "#" and not line.startswith(follows)]
    assert len(lines) > 12
    assert not [line for line in lines if "  # " not in line]
    assert not (tmp_path / "mine" / "sft.yaml").exists(), "an instruction-tuned model of 3B needs none"


@pytest.mark.parametrize(("gib", "how"), [(80, "full"), (24, "LoRA"), (12, "QLoRA"), (6, "QLoRA")])
def test_memory_decides_how_it_trains(gib, how, model):
    found = fit(model, gib, Prompt(400, 300), {"max_completion_length": 512})
    assert found.how == how
    assert found.fits == (gib != 6)
    assert bool(found.unclear) == (gib == 6)


def test_grpo_starts_from_the_merged_warm_start_where_it_trains_lora(tmp_path, monkeypatch, capsys):
    as_csv(tmp_path / "theirs")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine", "--data", "theirs", "--model", "org/base-3b", "--gpu_memory", "24"]) == 0
    assert "omnirl train mine/config.yaml --model_name_or_path mine/warm_start/merged" in capsys.readouterr().out
    assert "use_peft: true" in (tmp_path / "mine" / "sft.yaml").read_text()


def test_the_tiny_policy_is_known_by_its_folder_too():
    assert read_model(tiny_policy()).is_tiny


@pytest.fixture(scope="module")
def model():
    return read_model(DEFAULT)


def test_kinds_of_answers_become_tasks(tmp_path, monkeypatch):
    rows = [{"problem": f"Box {n}?", "solution": [n, 1, n + 9, 20]} for n in range(20)]
    rows += [{"problem": f"How many {n}?", "solution": n} for n in range(20)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine", "--data", "rows.json", "--model", "tiny_policy"]) == 0
    tasks = {record.task for record in load_records("mine/data/train.jsonl")}
    assert len(tasks) == 2
    assert None not in tasks


def test_bad_rows_are_left_out_and_named(tmp_path, monkeypatch, capsys):
    as_csv(tmp_path / "theirs")
    (tmp_path / "theirs" / "pics" / "3.png").unlink()
    Image.new("RGB", (8, 8)).save(tmp_path / "theirs" / "pics" / "4.png")
    with open(tmp_path / "theirs" / "qa.csv", "a") as file:
        file.write("Which color?,,5.png\n")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine", "--data", "theirs", "--model", "tiny_policy"]) == 0
    assert "3 rows left out" in capsys.readouterr().out
    reasons = (tmp_path / "mine" / "data" / "left_out.txt").read_text()
    assert all(part in reasons for part in ("not found", "8 x 8", "no answer"))
    assert main(["check-data", "mine/config.yaml", "--workers", "1"]) == 0


def test_one_image_is_never_on_both_sides(tmp_path):
    rng = random.Random(0)
    images(tmp_path / "theirs")
    rows = [{"problem": f"Q{n}?", "solution": n, "image": f"pics/{rng.randrange(30)}.png"} for n in range(200)]
    (tmp_path / "theirs" / "rows.json").write_text(json.dumps(rows))
    data = read_data(str(tmp_path / "theirs"), None)
    sides = [{path for record in part for path in record.images} for part in (data.train, data.held_out)]
    assert len(data.held_out) >= 20
    assert not sides[0] & sides[1]


def test_an_image_of_many_samples_is_not_most_of_what_is_held_out(tmp_path):
    images(tmp_path / "theirs")
    rows = [{"problem": f"Q{n}?", "solution": n, "image": f"pics/{n}.png"} for n in range(1, N)]
    rows += [{"problem": "Which?", "solution": "red", "image": "pics/0.png"}] * 9
    (tmp_path / "theirs" / "rows.json").write_text(json.dumps(rows))
    data = read_data(str(tmp_path / "theirs"), None)
    assert len(data.held_out) == 9
    assert "Which?" not in {record.problem for record in data.held_out}
    assert "9 samples repeat the images or questions of 1: none of them is held out" in data.unclear


ROWS = [{"question": f"{n}?", "answer": n, "image": "a.jpg"} for n in range(9)]


@pytest.mark.parametrize(
    ("rows", "mapping"),
    [
        (ROWS, {"problem": "question", "solution": "answer"}),
        ([{"image": "a.jpg", "caption": "a cat"}], {"problem": {"text": "Describe the image."}, "solution": "caption"}),
        ([{"problem": "?", "solution": 3}], {}),
        ([{"Frage": "Wie viele?", "n": 3}], {"problem": "Frage", "solution": "n"}),
        ([{"q": "?", "A": "x", "B": "y", "answer": 1}, {"q": "?", "A": "x", "B": "y", "answer": 2}],
         {"problem": "q", "solution": {"column": "answer", "index_from": 1}}),
        ([{"q": "?", "a_path": "x.png", "b_path": "y.png", "label": 1}],
         {"problem": "q", "solution": "label", "images": ["a_path", "b_path"]}),
        ([{"problem": "2?", "choices": ["1", "2"], "answer": 1, "solution": "so"}] * 2 + [{"problem": "2?",
          "choices": ["1", "2"], "answer": 0, "solution": "so"}], {"options": "choices",
          "solution": {"column": "answer", "index_from": 0}, "explanation": "solution"}),
    ],
)  # fmt: skip
def test_columns_are_found(rows, mapping):
    assert find_columns(rows).mapping == mapping


def test_columns_that_are_named_leave_the_others_to_be_found():
    """The message on an unclear column offers a mapping of two names; the images are not lost by it."""
    rows = [
        {"ID": n, "Frage": "Welche Farbe?", "Antwort": "rot", "Bilddatei": f"Bilder/Foto {n}.JPG"} for n in range(9)
    ]
    given = {"problem": "Frage", "solution": "Antwort"}
    assert find_columns(rows, given).mapping == {**given, "image": "Bilddatei"}
    assert find_columns(rows).mapping == {**given, "image": "Bilddatei"}, "an id is no answer"
    alike = find_columns([{"messages": [{"role": "user", "content": "?"}], "q": "?", "a": 1}], {"problem": "q"})
    assert alike.mapping == {"problem": "q", "solution": "a"}


CHAT = {"type": "text", "text": "Which?"}


@pytest.mark.parametrize(
    ("contents", "mapping"),
    [
        ([[{"type": "image", "image": "a.png"}, {"type": "image", "image": "b.png"}, CHAT]],
         {"problem": "c.0.content.2.text", "images": ["c.0.content.0.image", "c.0.content.1.image"]}),
        ([[CHAT, {"type": "image"}, CHAT]], {"problem": {"text": "{c.0.content.0.text}<image>{c.0.content.2.text}"}}),
        ([[{"type": "image_url", "image_url": "a.png"}, CHAT]],
         {"problem": "c.0.content.1.text", "image": "c.0.content.0.image_url"}),
        ([[CHAT], [{"type": "image", "image": "a.png"}, CHAT]], None),
        ([[{"type": "video", "video": "a.mp4"}, CHAT]], None),
    ],
)  # fmt: skip
def test_every_block_of_a_chat_is_read_or_the_chat_is_refused(contents, mapping):
    rows = [{"c": [{"role": "user", "content": content}], "answer": 1} for content in contents]
    if mapping is None:
        with pytest.raises(UnreadableColumns, match="blocks of several forms"):
            find_columns(rows)
    else:
        assert find_columns(rows).mapping == {**mapping, "solution": "answer", "chat": "c"}


def test_samples_of_one_question_are_held_out_too(tmp_path, monkeypatch, capsys):
    """Alpaca's columns: what the instruction is about belongs to the question."""
    rows = [{"instruction": "Add.", "input": f"{n} and 2", "output": str(n + 2), "level": 1} for n in range(N)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    data = read_data(str(tmp_path / "rows.json"), None)
    assert (data.train[0].problem.split("\n")[1], len(data.train), len(data.held_out)) == ("Add.", 32, 8)
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine", "--data", "rows.json", "--model", "tiny_policy"]) == 0
    assert "columns that are neither in the prompt nor the answer: level\n" in capsys.readouterr().out
    same = [{"question": "Which?", "answer": n} for n in range(N)]
    (tmp_path / "rows.json").write_text(json.dumps(same))
    data = read_data(str(tmp_path / "rows.json"), None)
    assert len(data.held_out) == 8
    assert data.unclear == ["few questions stand for all samples: held-out samples have some of training's"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"x": 1, "y": 2}], "no column of questions among x, y; name them: --columns"),
        ([{"question": "?", "image": "a.jpg"}], "no column of answers among none beside the questions"),
        ([{"messages": [{"role": "user", "content": "a"}] * 2}], "holds chats of several forms (user, user)"),
    ],
)
def test_columns_that_cannot_be_told(rows, message):
    with pytest.raises(UnreadableColumns) as caught:
        find_columns(rows)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["there"], "there is not empty, and nothing is overwritten"),
        (["there/rows.json"], "there/rows.json is a file; name a new folder"),
        (["mine", "--data", "there/row.json"], "no such file or folder; did you mean 'there/rows.json'?"),
        (["mine", "--data", "there/empty.csv"], "no rows"),
        (["mine", "--data", "there/few.json"], "1 sample to train on"),
        (["mine", "--data", "there/unanswered.json"], "no column of answers"),
        (["mine", "--data", "there/null.json"], "there/null.json:1: no answer"),
        (["mine", "--data", "there"], "give one of them"),
        (["mine", "--data", "there/rows.json", "--model", "./tiny"], "--model: no folder ./tiny"),
        (["mine", "--data", "there/rows.json", "--model", "there"], "holds no config.json"),
        (["mine", "--data", "there/rows.json", "--model", "tinypolicy"], "give a folder, a hub id"),
        (["mine", "--data", "there/rows.json", "--gpu_memory", "-1"], "GiB of a GPU, above 0"),
        (["mine", "--data", "there/rows.json", "--columns", "{problem"], "--columns"),
        (["mine", "--model", "tiny_policy"], "--model wants --data"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(words, message, tmp_path, monkeypatch, capsys):
    files = {
        "rows.json": [{"problem": f"{n}?", "solution": n} for n in range(20)],
        "few.json": [{"problem": "?", "solution": 1}],
        "unanswered.json": [{"problem": "?"}],
        "null.json": [{"problem": "?", "solution": None}] * 20,
    }
    (tmp_path / "there").mkdir()
    for name, rows in files.items():
        (tmp_path / "there" / name).write_text(json.dumps(rows))
    (tmp_path / "there" / "empty.csv").write_text("question,answer\n")
    monkeypatch.chdir(tmp_path)
    assert main(["init", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()
