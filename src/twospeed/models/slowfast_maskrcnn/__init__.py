"""SlowFast in Mask R-CNN: a detector whose feature pyramid has seen the frames around its own."""
