"""Recorded demonstrations, a folder per environment and model."""
