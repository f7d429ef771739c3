"""Models: what is known of each, where the weights come from, and the exact forward.

`facts`, `catalog`, `labels`, `selection` and `sources` work without torch.
"""
