"""Networks: backbones and heads by name, the networks made of them, and their checkpoints."""
