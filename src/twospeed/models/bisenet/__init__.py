"""BiSeNet: the other image network that labels keyframes."""
