"""Several worker processes on this machine compute the shards of a job, which they take from one queue."""
