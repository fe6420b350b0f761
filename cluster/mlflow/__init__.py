"""The MLflow server of a team: runs in a database, files served by the server itself."""
