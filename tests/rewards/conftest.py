"""What the tests of several rewards do alike."""

from collections.abc import Callable
from pathlib import Path

import pytest

from omnirl_core.rewards import RewardsError, load_rewards


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """Entries of a rewards.yaml, from its second line on -> why the file is refused."""

    def why(*entries: str) -> str:
        path = tmp_path / "rewards.yaml"
        path.write_text("rewards:\n" + "".join(f"- {entry}\n" for entry in entries))
        with pytest.raises(RewardsError) as caught:
            load_rewards(path)
        return str(caught.value)

    return why
