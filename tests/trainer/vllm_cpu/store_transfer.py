"""The server's side: weights over a TCP store, where there is no NCCL. See `cpu_backend.store_for_nccl`."""

from typing import Any

import torch
import vllm.model_executor.layers.utils as layers
from vllm.distributed.utils import StatelessProcessGroup
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine


def keep_weights(layer: Any, remove_weight: bool) -> None:
    """The CPU backend packs linear weights and drops the originals, and then takes no others."""
    layer.cpu_linear = torch.nn.functional.linear


layers.dispatch_cpu_unquantized_gemm = keep_weights


class StoreEngine(NCCLWeightTransferEngine):
    def init_transfer_engine(self, info: Any) -> None:
        rank = info.rank_offset + self.parallel_config.rank
        self.model_update_group = StatelessProcessGroup.create(
            info.master_address, info.master_port, rank, info.world_size
        )

    def receive_weights(self, info: Any) -> None:
        group = self.model_update_group
        self.model.load_weights((name, group.broadcast(None, src=0)) for name in info.names)


if "store" not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine("store", StoreEngine)


class Extension:
    """Named by --worker-extension-cls, so that vLLM's worker imports this module."""
