"""A run that is killed resumes as if it had not been; a run that goes wrong stops, on all ranks, with the reason."""
