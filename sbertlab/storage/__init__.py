"""Where a model comes from, and files that are either whole or not there."""
