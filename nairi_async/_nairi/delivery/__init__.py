"""Finding the turn of a prompt whose answer did not come back (design section 6)."""
