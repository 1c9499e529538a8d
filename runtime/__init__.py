"""Streaming: a session over an executor, and video in and out.

May import: engines, kernels; torch only inside the torch executor.
"""
