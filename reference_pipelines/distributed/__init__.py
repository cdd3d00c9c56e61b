"""Several processes as one: who takes part, where each computes, shared batch statistics, and the watch over all."""
