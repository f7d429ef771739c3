"""Bundles, weights and the exact forward. `catalog` is free of torch; everything else here needs it."""
