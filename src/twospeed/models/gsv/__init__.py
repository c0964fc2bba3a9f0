"""GSVNet: labels of a keyframe, propagated and refined."""
