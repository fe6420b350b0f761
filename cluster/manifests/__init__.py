"""What puts a search on a cluster, generated: Kubernetes, Slurm, a cloud, hosts of one's own."""
