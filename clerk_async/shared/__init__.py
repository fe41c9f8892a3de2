"""What all processes of one key share through Redis: the rate limit, pauses and denials."""
