"""Files to waveforms: headers, formats, decoding. Every reader checks what a damaged file claims."""
