"""What a run does, in order: manifest, infer, score, report; and the checks that come before each."""
