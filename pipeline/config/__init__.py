"""The command line and the configuration: composed by Hydra, typed, checked once. Nothing else knows Hydra."""
