"""The same config and seed give the same run, twice: completions that were sampled, and weights, bit for bit.

Two processes: fault_tolerance/test_faults_of_ranks.py. A whole run from its YAML: tests/recipes/test_demo.py.
"""

import pytest
import torch


@pytest.mark.parametrize("kind", ["text-only", "mixed"])
@pytest.mark.parametrize("shared_prefix", ["off", "auto"])
def test_twice_the_same(trainer, rows, tmp_path, kind, shared_prefix):
    chosen = [row for row in rows if not row["images"]] if kind == "text-only" else rows

    def run(folder, **settings):
        worker = trainer(
            chosen, per_device_train_batch_size=4, max_steps=3, learning_rate=1e-2, beta=0.1,
            shared_prefix=shared_prefix, output_dir=str(tmp_path / folder), **settings,
        )  # fmt: skip
        worker.train()
        weights = torch.cat([p.detach().flatten() for p in worker.model.parameters()])
        return weights, (tmp_path / folder / "completions.jsonl").read_text()

    first, second, other = run("first"), run("second"), run("other", seed=2)
    assert first[1] == second[1]
    assert torch.equal(first[0], second[0])
    assert first[1] != other[1], "or equality would mean nothing"
