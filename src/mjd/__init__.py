"""mjd: model judgment distributions, estimates of human label variation from a few labels."""

import os

__version__ = "0.1.0"

# PyTorch's threads sleep while they wait. They spin by default, and when another program needs the same cores, every
# operator then waits for the system to take them away: ten times slower and more. Read when PyTorch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
