"""Parameters drawn once, applied to frames, masks and boxes alike."""
