"""The run directory: schemas of the tables, manifest, commit records, lock."""
