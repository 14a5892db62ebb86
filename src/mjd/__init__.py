"""mjd: model judgment distributions, estimates of human label variation from a few labels."""

__version__ = "0.1.0"
