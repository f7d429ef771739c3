"""Whether a run directory holds what was committed: every byte, every row, every record. Does not import torch.

Not sound is whatever contradicts what was committed: a file or record that is missing, edited or of another run, rows
that do not account for every id once, and tables that readers see (they read `transcripts/*.parquet`) with no record
that vouches for them. The tables of a commit that was killed between its renames and its record are such tables too;
the run knows them by the attempt's folder in `.staging/`, and so does this module: they are a note, because the next
run replaces them. Without that folder nobody can tell them from a shard whose record was deleted.

Shards that are not done are pending, which is no damage. Reading only: nothing here writes or deletes.
"""
