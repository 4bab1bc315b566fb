"""Measures of embeddings and reports: retrieval, text metrics, findings, modality gap."""
