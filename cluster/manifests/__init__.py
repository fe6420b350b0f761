"""What puts a search on a cluster: Kubernetes, Slurm, a cloud, hosts of one's own; all generated."""
