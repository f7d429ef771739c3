"""Container formats whose headers are walked before a decoder sees the file, to find cuts and false lengths."""
