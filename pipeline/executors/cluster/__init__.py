"""Actors of a Ray cluster compute the shards of a job, which they take from one queue."""
