"""The network as plain PyTorch: one file a stage, official state-dict names, explicit state.

May import: presets, kernels.
"""
