"""The prompt of a group, images included, goes through the model once. Start at `runtime`."""
