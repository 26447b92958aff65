"""What every transport shares: the model, the pipeline of an inference request, access control and reports."""
