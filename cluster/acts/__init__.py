"""What a study does after and beside its search: the confirmation, the factorial."""
