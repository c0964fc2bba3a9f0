"""Results drawn on frames."""
