"""Align particle-tracking detectors by gradient descent.

Each sensor is a linear layer, the track fit is the loss.
"""

__version__ = "0.1.0"
