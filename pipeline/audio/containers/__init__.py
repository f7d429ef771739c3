"""Reads the headers of container formats before a decoder does, to find files that were cut or state a false length."""
