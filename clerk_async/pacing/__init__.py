"""When the requests of bulk runs may leave: the window, the ramp and the gate."""
