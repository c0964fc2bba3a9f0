"""SwiftNet: a light image network that labels keyframes."""
