"""Evaluation with the rewards of training: `score.evaluate` grades rows, `compare.compare` pairs gradings."""
