"""The laboratory: the same application and the same attacks on every model, measured on running services."""
