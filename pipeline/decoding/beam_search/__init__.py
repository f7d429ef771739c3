"""The parts of `decoder=beam`: its files, the spelling of words, the preference for hotwords, and the search."""
