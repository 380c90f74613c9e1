"""`balance: gdpo` is TRL's own aggregation under a name that says what it is for."""

import pytest

from omnirl_core.trainer import OmniGRPOConfig


def config(tmp_path, **settings):
    return OmniGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, **settings)


def test_gdpo_is_trls_aggregation(tmp_path):
    assert config(tmp_path, balance="gdpo").multi_objective_aggregation == "normalize_then_sum"
    assert config(tmp_path).multi_objective_aggregation == "sum_then_normalize"


def test_another_balance_is_reported(tmp_path):
    with pytest.raises(ValueError, match="balance 'fair' is not 'gdpo'"):
        config(tmp_path, balance="fair")
