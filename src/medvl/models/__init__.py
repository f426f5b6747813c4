"""Networks: they return logits and know no loss."""
