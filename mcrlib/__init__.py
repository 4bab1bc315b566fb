"""MCR: masked contrastive reconstruction for medical image-report retrieval (arXiv 2312.15840)."""
