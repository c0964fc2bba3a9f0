"""One readable script per training."""
