"""Video understanding at two speeds."""
