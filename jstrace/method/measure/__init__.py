"""What predictions and hidden states are compared by."""
