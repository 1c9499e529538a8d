"""What is done to pictures around the network, in numbers: bicubic weights, the colour fixes. No torch."""

import numpy as np

TAPS = 4
FIXED_POINT_BITS = 22
"""Fraction bits of PIL's 8-bit resampling weights (Pillow `Resample.c`, PRECISION_BITS)."""

EPSILON = 1e-5
"""Added to a variance before its root (official `ColorCorrectorWavelet`)."""

WAVELET_LEVELS = 5


def first_tap(phase: int, scale: int) -> int:
    """Offset from a source pixel to the first of the four taps of its output `phase`."""
    return (2 * phase + 1 - scale) // (2 * scale) - 1


def bicubic_weights(size: int, phase: int, scale: int) -> np.ndarray:
    """PIL's fixed-point weights [4, size] int32 of one output phase, a = -0.5.

    Taps outside the image weigh nothing and the others are renormalised, as PIL does at borders.
    """
    source = np.arange(size, dtype=np.float64)
    centre = (phase + 0.5) / scale - 0.5
    offsets = first_tap(phase, scale) + np.arange(TAPS, dtype=np.float64)
    distance = np.abs(offsets - centre)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, far)[:, None]
    position = source + offsets[:, None]
    weights = np.where((position >= 0) & (position < size), weights, 0.0)
    # Multiplied by the reciprocal, as PIL does: a quotient can round the other way.
    fixed = weights * (1 / weights.sum(axis=0)) * 2**FIXED_POINT_BITS
    return np.trunc(fixed + np.where(fixed < 0, -0.5, 0.5)).astype(np.int32)
