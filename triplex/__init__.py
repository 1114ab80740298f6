"""The library: tensors in, tensors out."""
