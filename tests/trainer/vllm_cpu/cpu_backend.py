"""The seams by which TRL 1.16 runs on vLLM's CPU backend; for tests, not for training."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import trl.generation.vllm_client as client
import trl.generation.vllm_generation as generation
import vllm
from store_transfer import keep_weights  # also has the engine keep its weights
from vllm.distributed.utils import StatelessProcessGroup

__all__ = ["engines_kept", "keep_weights", "store_for_nccl"]


@contextmanager
def engines_kept() -> Iterator[Callable[..., vllm.LLM]]:
    """While it lasts, TRL's engines are eager, and made once for each checkpoint, precision and pixel budget."""
    made: dict[str, vllm.LLM] = {}

    def make(**settings: Any) -> vllm.LLM:
        settings = {**settings, "max_num_seqs": 128, "enforce_eager": True}
        key = repr(sorted(settings.items()))
        if key not in made:
            made[key] = vllm.LLM(**settings)
        return made[key]

    plain = generation.LLM
    generation.LLM = make
    try:
        yield make
    finally:
        generation.LLM = plain


@contextmanager
def store_for_nccl() -> Iterator[None]:
    """While it lasts, TRL's client sends weights over a TCP store to a server started by serve.py."""

    def init_communicator(self: Any, device: Any = 0) -> None:
        info = {
            "master_address": "127.0.0.1",
            "master_port": self.group_port,
            "rank_offset": 1,
            "world_size": self.get_world_size() + 1,
        }
        with ThreadPoolExecutor(1) as pool:
            url = f"{self.base_url}/init_weight_transfer_engine"
            answer = pool.submit(self._post, url, json={"init_info": info})
            self.communicator = StatelessProcessGroup.create(
                info["master_address"], info["master_port"], 0, info["world_size"]
            )
            answer.result()

    def send(iterator: Any, group: Any, src: int, post_iter_func: Callable[[Any], Any]) -> None:
        for item in iterator:
            group.broadcast(post_iter_func(item).detach().cpu().contiguous(), src)

    kept = generation.VLLMClient.init_communicator, client.packed_nccl_broadcast_producer
    generation.VLLMClient.init_communicator, client.packed_nccl_broadcast_producer = init_communicator, send
    try:
        yield
    finally:
        generation.VLLMClient.init_communicator, client.packed_nccl_broadcast_producer = kept
