"""The program, broken on purpose: `python -m tests.faults` tries, and counts what held."""
