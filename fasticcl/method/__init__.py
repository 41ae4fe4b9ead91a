"""The ICCL method: encoders, network, centroids and losses, independent of data loading and training."""
