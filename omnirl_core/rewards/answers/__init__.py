"""Answers that are right or wrong: choices, numbers, mathematics, exact text."""
