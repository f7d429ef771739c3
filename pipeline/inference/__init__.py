"""The loop over planned batches: load, run the model, decode, write, commit shard by shard."""
