"""The version, for the package's metadata and the User-Agent."""

__version__ = "0.1.0"
