"""What people touch: the CLI, the local devnet and the demo."""
