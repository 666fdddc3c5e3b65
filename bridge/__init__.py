"""The bridge: a native contract on L1 with its dispute game, and the service that follows and serves it."""
