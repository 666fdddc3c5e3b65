"""Positive controls: small breakages of our own code, and what they prove of the tests (docs/TRUST.md)."""
