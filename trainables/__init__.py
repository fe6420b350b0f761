"""What one trial does: from a typed configuration to scores. Imports no Ray but in one adapter."""
