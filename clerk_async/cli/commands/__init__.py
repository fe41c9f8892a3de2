"""The arguments of each command; its behaviour is in the modules of the parent package."""
