"""What users hold: a stream of frames in, a stream of results out, bounded memory."""
