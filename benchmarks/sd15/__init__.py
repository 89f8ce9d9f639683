"""What forgetting costs at the size of published checkpoints: their architectures, with weights made here."""
