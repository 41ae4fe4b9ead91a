"""Long-tailed image classification with interpolative centroid contrastive learning, fed by NVIDIA DALI."""
