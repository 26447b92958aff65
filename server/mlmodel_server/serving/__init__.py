"""What every transport shares: one model, the pipeline of an inference request, access, and what is recorded."""
