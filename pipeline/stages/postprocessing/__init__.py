"""What is made from the committed tables of a run, shard by shard, without the model. Does not import torch."""
