"""Pacing of bulk runs, which decides when a request may leave: the window, ramp and gate."""
