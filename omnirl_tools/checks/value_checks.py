"""Values that TRL, transformers and torch refuse with a traceback, after the model is loaded."""

from collections.abc import Iterator, Mapping

from omnirl_core.types import nearest

Fault = tuple[str | None, str]
"""(the setting, or None where the message names its own file, what is wrong)."""
LEAST = {
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1,
    "max_completion_length": 1, "num_iterations": 1, "learning_rate": 0, "epsilon": 0,
}  # fmt: skip
MAPPINGS = (
    "chat_template_kwargs", "generation_kwargs", "model_init_kwargs", "lr_scheduler_kwargs",
    "gradient_checkpointing_kwargs",
)  # fmt: skip


def value_faults(values: Mapping[str, object]) -> Iterator[Fault]:
    """What is wrong with numbers, mappings and names that their types take."""
    for name, least in LEAST.items():
        value = values.get(name, least)
        if isinstance(value, int | float) and not value >= least:  # NaN too
            yield name, f"{name} {value} is not a number from {least} on"
    temperature = values.get("temperature", 1.0)
    if isinstance(temperature, int | float) and not temperature > 0:
        yield (
            "temperature",
            f"temperature {temperature} is not above 0: greedy completions of a group are all the same",
        )
    for name in MAPPINGS:
        text = values.get(name)
        if isinstance(text, str) and not text.lstrip().startswith("{"):
            yield name, f"{name}: {text!r} is no mapping; write '{{\"name\": value}}'"
    yield from _name_faults(values)


def _name_faults(values: Mapping[str, object]) -> Iterator[Fault]:
    if (attention := values.get("attn_implementation")) is not None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        known = ["eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()]
        if attention not in known and "/" not in str(attention):  # org/name is a kernel of the hub
            yield "attn_implementation", f"attn_implementation: {attention!r} is not known{nearest(attention, known)}"
    if reported := values.get("report_to"):
        from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

        trackers = ["none", "all", *INTEGRATION_TO_CALLBACK]
        for one in reported if isinstance(reported, list) else [reported]:
            if one not in trackers:
                yield "report_to", f"report_to: {one!r} is no tracker{nearest(one, trackers)}"
