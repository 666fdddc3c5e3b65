"""The optimistic rollup: steps, batches, derivation, sequencer, verifier, faults, the service."""
