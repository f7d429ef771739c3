"""Checks whether a run directory still holds everything that was committed. Does not import torch.

A run directory is not sound if a file or a commit record is missing, edited or from another run, if the tables do not
hold each id exactly once, if an array has another size than its row says or a number that is not finite, or if a table
has no commit record although readers of `transcripts/*.parquet` see it.

A commit that was killed after it moved the tables, but before it wrote the record, leaves tables without a record. Its
folder in `.staging/` shows that. Such tables are a note and no problem, because the next run replaces them. If the
folder is missing too, the record may have been deleted, and the shard counts as damaged.

A renewal (`pipeline.storage.committing`) that was killed after it moved the new table leaves the old commit record. The
new record is in `.staging/`, so the shard is checked with it. That is a note too.

Shards that are not done are pending, not damaged. Only `--retract` changes anything: it removes commit records.
"""
