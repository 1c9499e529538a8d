"""Kernels, each beside the PyTorch twin that specifies it.

Will also hold: Triton implementations, ahead-of-time compilation and launching without torch.
Imports no other room.
"""
