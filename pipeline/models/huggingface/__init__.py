"""Checkpoints as transformers saves them: what their files say, and their weights in torchaudio's model.

transformers itself is not needed. Only `weights` imports torch.
"""
