"""The run directory: schemas of the tables, the manifest, commit records, the lock."""
