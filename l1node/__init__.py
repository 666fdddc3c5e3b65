"""The proof-of-stake L1: Streamlet consensus, staking, mempool, gossip, block sync, the service."""
