"""What every chain here is made of: state, transactions, contracts, blocks, and the shell around them."""
