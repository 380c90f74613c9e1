"""Small programs for the sandbox, as tables: hostile ones, and honest ones with what they print."""
