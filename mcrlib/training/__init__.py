"""Training one model: loop, memory savings, checkpoints, and what a step costs."""
