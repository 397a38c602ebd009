"""Model work for requests: the queue, the computation, the models and the stored results."""
