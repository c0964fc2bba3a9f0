"""Pure scoring on arrays, each checked against the official scorer's recorded numbers."""
