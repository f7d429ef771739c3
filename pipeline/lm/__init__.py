"""Language models from people's own texts: `python -m pipeline.lm`."""
