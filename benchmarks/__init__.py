"""Benchmarks: what the running services do per second, beside what the machine could do at most.

Responsible for measuring and for nothing else: no other package imports this one, and it changes nothing of theirs.
``python -m benchmarks --help`` says how to run it; docs/PERFORMANCE.md shows what came of it.
"""
