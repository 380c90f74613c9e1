"""What `omnirl suggest-rewards` reads in references, and which judges fit."""
