"""What jstrace costs and how near it comes to transformers; every file that is run opens with its command."""
