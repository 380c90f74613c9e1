"""What `omnirl init` does: look at data, model and GPU, and write a folder that trains."""
