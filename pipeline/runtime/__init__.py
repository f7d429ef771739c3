"""What any long-running program needs: errors, signals, processes, terminals, logs. It knows nothing of speech."""
