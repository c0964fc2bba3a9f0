"""Small helpers of the training loops; no Trainer."""
