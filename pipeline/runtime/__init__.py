"""Errors, signals, processes, terminals and logs: what any long-running program needs, whatever it computes."""
