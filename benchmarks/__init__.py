"""What the library costs, compared with its peers and its floor: `python -m benchmarks`."""
