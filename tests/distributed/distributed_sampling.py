r"""Dynamic sampling on several ranks; run by test_dynamic_sampling.py.

python -m torch.distributed.run --nproc_per_node=4 tests/distributed/distributed_sampling.py agree
accelerate launch --config_file accelerate_configs/zero3.yaml --num_processes 2 \
    tests/distributed/distributed_sampling.py train zero3 CHECKPOINT FOLDER IMAGE IMAGE
"""

import random
import sys
import zlib
from collections import defaultdict
from types import SimpleNamespace

import torch
import torch.distributed as dist

from omnirl_core.trainer.dynamic_sampling import DynamicSampling, IndexedSamples

LAYOUTS = 100
STEPS = 3
SAMPLES = 40


class Stub:
    """Stands for a trainer: its rollout is a collective, its rewards are this rank's own draws.

    Two thirds of the prompts, `dull`, earn nothing ever; of the others' completions a share earns 1.
    """

    def __init__(self, rank: int, ranks: int, group, size: int, share: float, most: int, seed: int, kind: str):
        self.num_generations, self.share, self.group, self.ranks = size, share, group, ranks
        self.args = SimpleNamespace(seed=seed, data_seed=None)
        self.state, self._step = SimpleNamespace(global_step=0, stateful_callbacks={}), 0
        self.settings = SimpleNamespace(max_resample_rounds=most, dynamic_sampling=kind)
        self.accelerator = SimpleNamespace(
            process_index=rank, num_processes=ranks, device="cpu", gather=self.gather, is_main_process=False
        )
        self.dull = {f"sample {i}" for i in range(SAMPLES) if i % 3}
        self.train_dataset = [{"prompt": f"sample {i}"} for i in range(SAMPLES)]
        self.shared_prefix, self.multi_objective_aggregation = None, "sum_then_normalize"
        self.reward_weights, self.reference_probability = torch.ones(1), None
        self._metrics, self._pending_extra_logs = {"train": defaultdict(list)}, defaultdict(list)
        self.draw = random.Random(f"{seed} {rank}")
        self.rollouts: list[int] = []

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        if self.ranks == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.ranks)]
        dist.all_gather(parts, values, group=self.group)
        return torch.cat(parts)

    def _open_samples(self, inputs) -> None:
        self._samples = inputs

    def _generate(self, prompts):
        n = torch.tensor([len(prompts)])
        assert (self.gather(n) == n).all(), "ranks generate as many"
        self.rollouts.append(len(prompts))
        completions = [str(int(one not in self.dull and self.draw.random() < self.share)) for one in prompts]
        log_probs = [[-float(text)] for text in completions]  # as vLLM gives them
        return prompts, [[int(text)] for text in completions], None, completions, log_probs, {}, None, []

    def _score(self, samples, prompts, completions, completion_ids):
        self._pending_extra_logs["seen"].extend(zip(prompts, completions, strict=True))
        return self.gather(torch.tensor([[float(text)] for text in completions]))


def agree() -> None:
    """Random layouts over 2 to 4 ranks: no hang, whole groups, each with its own rewards."""
    dist.init_process_group("gloo")
    rank, draw = dist.get_rank(), random.Random(7)
    groups = {ranks: dist.new_group(list(range(ranks))) for ranks in (2, 3, 4)}
    extra_rounds = 0
    for seed in range(LAYOUTS):
        ranks, size = draw.randint(2, 4), draw.choice([2, 3, 4, 8])
        n = draw.choice([i for i in range(1, 17) if i * ranks % size == 0])
        share, most = draw.choice([0.02, 0.1, 0.5, 0.98]), draw.randint(1, 5)
        kind, order = draw.choice(["predict", "resample"]), draw.sample(range(SAMPLES), n * ranks // size)
        if rank >= ranks:
            continue
        stub = Stub(rank, ranks, groups[ranks], size, share, most, seed, kind)
        sampling, own = DynamicSampling(stub), range(rank * n, (rank + 1) * n)
        for step in range(STEPS):
            stub._step = stub.state.global_step = step
            check(stub, sampling, [IndexedSamples(stub.train_dataset)[order[row // size]] for row in own])
            extra_rounds += len(stub.rollouts) - 1
    dist.barrier()
    if rank == 0:
        print(f"{LAYOUTS} layouts, {extra_rounds} further rounds")
    dist.destroy_process_group()


def check(stub: Stub, sampling: DynamicSampling, first: list[dict]) -> None:
    size = stub.num_generations
    stub.rollouts, stub._metrics, stub._pending_extra_logs = [], {"train": defaultdict(list)}, defaultdict(list)
    samples = sampling.draw(first)
    drawn = sampling.drawn
    assert len(samples) == len(first)
    assert all(list(sample) == ["prompt"] for sample in samples), "the index is for nobody else"
    assert stub._pending_extra_logs == {}
    rewards = sampling.rewards()
    own = rewards[stub.accelerator.process_index * len(first) :][: len(first)]
    assert own.flatten().tolist() == [float(text) for text in drawn.completions], "its own rewards"
    assert drawn.log_probs == [[-float(text)] for text in drawn.completions]
    assert drawn.completion_ids == [[int(text)] for text in drawn.completions]
    pairs = [(sample["prompt"], text) for sample, text in zip(samples, drawn.completions, strict=True)]
    assert stub._pending_extra_logs["seen"] == pairs
    names = stub.gather(torch.tensor([zlib.crc32(sample["prompt"].encode()) for sample in samples])).view(-1, size)
    assert (names == names[:, :1]).all(), "a group is of one prompt"
    logged = {name.split("/")[1]: values for name, values in stub._metrics["train"].items()}
    mixed = rewards.view(-1, size).std(1) > 0
    assert logged["kept_groups"] == [float(mixed.sum())]
    assert logged["rounds"] == [len(stub.rollouts) - 1]
    most = stub.settings.max_resample_rounds if stub.settings.dynamic_sampling == "resample" else 0
    assert len(stub.rollouts) <= most + 1
    assert mixed.all() or logged["rounds"] == [most]
    numbers = torch.tensor([logged[name][0] for name in ("rounds", "rejected_share", "replaced_share")])
    assert (stub.gather(numbers).view(-1, 3) == numbers).all(), "all ranks log the same"
    history = torch.tensor([zlib.crc32(repr(stub.state.stateful_callbacks).encode())])
    assert (stub.gather(history) == history).all(), "all ranks remember the same"


def train(engine: str, checkpoint: str, folder: str, *images: str) -> None:
    """Two steps with groups over both ranks, two with whole ones; most prompts, images or not, have no signal."""
    from conftest import lazily, letters, row
    from distributed_layouts import RolloutTrainer, weights

    from omnirl_core.trainer import OmniGRPOConfig

    def some(prompts, completions, **columns):
        dull = ["dull" in str(prompt) for prompt in prompts]
        return [0.5 if one else value for one, value in zip(dull, letters(completions), strict=True)]

    kinds = [[], list(images[:1]), list(images)]
    rows = [row(f"Row {i} {'dull' if i % 4 else 'lively'}", kinds[i // 4 % 3], str(i)) for i in range(24)]
    for n in (2, 8):
        config = OmniGRPOConfig(
            output_dir=f"{folder}/{n}", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            disable_tqdm=True, save_strategy="no", logging_steps=1, max_steps=2, seed=1, num_generations=4,
            per_device_train_batch_size=n, max_completion_length=8, dynamic_sampling="resample",
            max_resample_rounds=20, optim="sgd", learning_rate=0.3, shared_prefix="auto",
        )  # fmt: skip
        trainer = RolloutTrainer(checkpoint, some, config, lazily(rows))
        assert (trainer.engine, trainer.accelerator.num_processes) == (engine, 2)
        trainer.generated = []
        trainer.train()
        lines = [line for line in trainer.state.log_history if "frac_reward_zero_std" in line]
        assert [line["frac_reward_zero_std"] for line in lines] == [0.0, 0.0], lines
        assert sum(line["dynamic_sampling/rounds"] for line in lines) > 0, lines
        streaks = trainer.state.stateful_callbacks["SignalHistory"]["streaks"]
        assert streaks, "what was dull is remembered"
        assert all(int(index) % 4 for index in streaks), "by its own index"
        total = torch.stack([w.double().abs().sum() for w in weights(trainer).values()]).sum()
        assert (trainer.accelerator.gather(total.reshape(1)) == total).all()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
