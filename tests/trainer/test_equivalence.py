"""A row alone is the row in any batch: log-probabilities, generation."""

import pytest
import skimage.data
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers import GenerationConfig
from trl.data_utils import prepare_multimodal_messages

TOLERANCE = 1e-5


@pytest.fixture
def scored(trainer, rows):
    """Log-probabilities of each row's completions by row id, for rows generated together and passed in chunks."""

    def score(names, chunk, padding=0, change=lambda row: row, source=rows):
        batch = [change(row) for row in source if row["row_id"] in names]
        batch.sort(key=lambda row: names.index(row["row_id"]))
        worker = trainer(batch, scripted=True, per_device_train_batch_size=2 * len(batch))
        inputs = worker._generate_and_score_completions([row for row in batch for _ in range(2)])
        assert worker._is_mixed
        prompt, mask = inputs["prompt_ids"], inputs["prompt_mask"]
        fields = {k: v for k, v in inputs.items() if k in ("pixel_values", "image_grid_thw", "num_images")}
        types = inputs.get("mm_token_type_ids")
        if padding:
            prompt, mask = (torch.nn.functional.pad(x, (padding, 0)) for x in (prompt, mask))
            types = None if types is None else torch.nn.functional.pad(types, (padding, 0))
        worker.model.eval()
        with torch.no_grad():
            logps, _, _ = worker._get_per_token_logps_and_entropies(
                worker.model,
                torch.cat([prompt, inputs["completion_ids"]], 1),
                torch.cat([mask, inputs["completion_mask"]], 1),
                inputs["completion_ids"].shape[1],
                batch_size=chunk,
                mm_token_type_ids=types,
                **fields,
            )
        ids = [row["row_id"] for row in batch for _ in range(2)]
        kept = inputs["completion_mask"].bool()
        found = {}
        for name, values, mask in zip(ids, logps, kept, strict=True):
            found.setdefault(name, []).append(values[mask])
        return found

    return score


def _difference(one, other):
    pairs = zip(one, other, strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.fixture
def alone(scored):
    return {f"r:{n}": scored([f"r:{n}"], 2)[f"r:{n}"] for n in range(1, 7)}


@pytest.mark.parametrize("chunk", [1, 2, 3, 12])
@pytest.mark.parametrize("order", [[1, 2, 3, 4, 5, 6], [6, 4, 2, 1, 3, 5], [3, 1, 1 + 1, 4]])
def test_log_probabilities_of_a_row_do_not_depend_on_its_batch(scored, alone, order, chunk):
    together = scored([f"r:{n}" for n in order], chunk, padding=5 * (chunk == 3))
    assert set(together) == {f"r:{n}" for n in order}
    for name, values in together.items():
        assert _difference(values, alone[name]) <= TOLERANCE, name


def test_the_comparison_would_see_swapped_and_missing_images(scored, alone):
    def swap(row):
        return {**row, "images": row["images"][::-1]}

    assert _difference(scored(["r:3"], 2, change=swap)["r:3"], alone["r:3"]) > 100 * TOLERANCE
    assert _difference(scored(["r:5"], 2, change=swap)["r:5"], alone["r:5"]) > 100 * TOLERANCE

    def another(row):
        return {**row, "images": row["images"][:1] * len(row["images"])}

    assert _difference(scored(["r:3"], 2, change=another)["r:3"], alone["r:3"]) > 100 * TOLERANCE


def _greedy(worker, batch):
    config = GenerationConfig(
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=worker.eos_token_ids,
        pad_token_id=worker._tokenizer.pad_token_id,
        suppress_tokens=worker.generation_config.suppress_tokens,
        disable_compile=True,
    )
    worker.generation_config = config
    worker.generation_kwargs = config.to_diff_dict()
    from omnirl_core.trainer.multimodal import mixed_samples

    made = mixed_samples(batch)
    prompts = [prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in made]
    return worker._generate(prompts)[1]


def test_greedy_generation_alone_is_generation_in_a_batch(trainer, rows):
    worker = trainer(rows)
    together = _greedy(worker, rows)
    assert len({tuple(ids) for ids in together}) > 1
    for row, ids in zip(rows, together, strict=True):
        assert _greedy(worker, [row]) == [ids], row["row_id"]
    assert _greedy(worker, rows[::-1]) == together[::-1]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Rows over real photographs, JPEG and PNG, of many sizes, colour and grey, alone and several to a row."""
    folder = tmp_path_factory.mktemp("photographs")
    china, flower = load_sample_images().images
    sources = {
        "china": china,
        "flower": flower,
        "cat": skimage.data.chelsea(),
        "camera": skimage.data.camera(),
    }
    sizes = [None, (640, 480), (37, 211), (300, 20), (1, 40)]
    paths = []
    for name, pixels in sources.items():
        for place, size in enumerate(sizes):
            image = Image.fromarray(pixels)
            path = folder / f"{name}{place}.{'jpg' if place % 2 else 'png'}"
            (image if size is None else image.resize(size)).save(path)
            paths.append(str(path))

    def row(place, images):
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": f"Photograph {place}?"}]
        return {"prompt": [{"role": "user", "content": content}], "images": images, "row_id": f"p:{place}"}

    groups = [paths[:1], paths[5:8], [], paths[11:12], paths[12:17], [], paths[18:20], paths[3:4]]
    return [row(place, images) for place, images in enumerate(groups)]


def test_real_photographs(scored, trainer, photographs):
    names = [row["row_id"] for row in photographs]
    together = scored(names, 3, source=photographs)
    for name in names:
        assert _difference(together[name], scored([name], 2, source=photographs)[name]) <= TOLERANCE, name
    worker = trainer(photographs, per_device_train_batch_size=4, max_steps=4, num_generations=2)
    worker.train()
    assert all(torch.isfinite(parameter).all() for parameter in worker.model.parameters())
