"""The inside of the local sandbox: what shuts a program in before it runs.

These modules run in a fresh interpreter without site-packages (see `start.py`), as the package `jail`: they
use the standard library and each other, by relative imports, and nothing else of omnirl_core.
"""
