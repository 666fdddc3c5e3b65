"""The demo: one story, from deposit to escape, over real services."""
