"""Networkless verification of session tokens."""
