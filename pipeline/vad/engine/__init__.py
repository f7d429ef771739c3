"""The network of Silero VAD, and how a recording passes it."""
