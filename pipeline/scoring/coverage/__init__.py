"""How much of the speech in the recordings of a run became text, and how much text has no speech under it."""
