"""Networks: tensors in, tensors out; a family per folder."""
