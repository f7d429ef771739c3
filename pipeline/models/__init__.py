"""Bundles, weights and the exact forward. `catalog`, `labels` and `selection` are free of torch; the rest needs it."""
