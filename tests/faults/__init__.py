"""Faults caused on purpose, on a real broker; what is left is held against an undisturbed run and the oracle."""
