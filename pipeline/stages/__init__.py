"""The stages of a run: manifest, infer and score, with the checks before each stage."""
