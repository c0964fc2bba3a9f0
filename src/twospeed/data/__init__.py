"""Map-style data sets in their official layouts; never import a model."""
