"""What all processes of a key share through Redis: the rate limit, pauses and denials."""
