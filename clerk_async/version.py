"""The version, for the package's metadata and the User-Agent."""

__version__ = "0.2.0"
