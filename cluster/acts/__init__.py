"""What a study does: its search, the confirmation, a factorial."""
