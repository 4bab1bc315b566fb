"""What is about the paper and its readers, not about the method; the core never imports it."""
