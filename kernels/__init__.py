"""Kernels, each beside the PyTorch reference that specifies it.

Also their compilation ahead of time and their launch without torch (docs/kernels.md). Imports no other room.
"""
