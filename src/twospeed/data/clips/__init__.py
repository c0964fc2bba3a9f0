"""Training samples: clips drawn from annotated videos, still images or generated objects."""
