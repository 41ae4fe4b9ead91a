"""ICCL itself: encoders, network, centroids and losses. Knows nothing of data or of how training is run."""
