"""What each command takes; what it does is in the files beside this folder."""
