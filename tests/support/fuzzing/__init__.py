"""Bytes against every decoder and every handler of messages: coverage-guided (atheris), random, and from a corpus.

`targets` says what there is to run; `run` runs it. See docs/FUZZING.md.
"""
