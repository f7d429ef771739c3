"""Recordings inside tar, zip and Parquet files: what an archive holds, and the bytes of one recording in it.

A recording in an archive has a path too (`pipeline.audio.archives.members`), which says where its bytes are. So the
manifest is the index of the archives: a recording is read without a look at the others, and in any process.
"""
