"""Reads audio files: headers, formats and decoding. Every reader checks the header's claims against the file."""
