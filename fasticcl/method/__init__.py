"""The ICCL method: encoders, network, centroids and losses. Independent of data loading and training."""
