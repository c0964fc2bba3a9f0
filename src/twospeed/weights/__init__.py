"""What exists (catalog), where it is (store), how it enters a network (load)."""
