"""Pure losses: tensors in, a sum and metric sums out."""
