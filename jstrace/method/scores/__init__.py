"""What edges are ranked by: measured in one clean pass, or from gradients in the mask, fitted and learned ones too."""
