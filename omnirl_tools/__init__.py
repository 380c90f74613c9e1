"""What stands around a run: the `omnirl` command, checks of data and rewards, memory, evaluation, reports."""
