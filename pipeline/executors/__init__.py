"""How the work of a run is spread: one executor a module, chosen by name."""
