"""ConceptBench: editions, which a suite holds, and what a checkpoint draws of one beside its base."""
